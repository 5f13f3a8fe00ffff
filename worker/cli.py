"""The commands: parsing and printing, no logic.

What a program reads goes to stdout, as JSON; people's words, progress and logs go to stderr. Exit codes: 0 done, 2 the
call is wrong, 1 anything else.
"""

import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from worker.ner.engine import Engine
    from worker.settings import Settings

Answer = TypeVar("Answer")

WRONG_CALL = 2
FAILED = 1

koner = typer.Typer(
    name="koner",
    help="Attach Korean named entities to search queries and movie reviews on Kafka.",
    epilog="Settings: `koner settings`. Exit codes: 0 done, 2 the call is wrong, 1 anything else.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
topics_commands = typer.Typer(help="Make or list the topics that the settings name.", rich_markup_mode=None)
koner.add_typer(topics_commands, name="topics", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings.")]
Servers = Annotated[str | None, typer.Option(help="Kafka brokers, host:port separated by commas.", show_default=False)]
Model = Annotated[str | None, typer.Option(help="bundled, a folder, or a hub name.", show_default=False)]
Taxonomy = Annotated[str | None, typer.Option(help="seed, movies, klue, or a TOML file.", show_default=False)]
EngineName = Annotated[
    Literal["auto", "torch", "onnxruntime"] | None, typer.Option(help="What runs the model.", show_default=False)
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the model runs.", show_default=False)
]


def main() -> None:
    """Run the command line; the entry point of `koner`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # Korean comes out whole under LANG=C too
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    koner()


@koner.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if show_version:
        print(version("koner-stream"))
    elif context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(WRONG_CALL)


@koner.command()
def run(
    config: Config = None,
    bootstrap_servers: Servers = None,
    group: Annotated[str | None, typer.Option(help="Consumer group.", show_default=False)] = None,
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
    web_host: Annotated[str | None, typer.Option(help="Address the pages are served on.", show_default=False)] = None,
    web_port: Annotated[int | None, typer.Option(help="Port of the pages.", show_default=False)] = None,
    log_format: Annotated[
        Literal["auto", "text", "json"] | None, typer.Option(help="Form of log lines.", show_default=False)
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least severe line logged.", show_default=False),
    ] = None,
) -> None:
    """Enrich records from Kafka until SIGTERM or Ctrl-C. Options win over KONER_ variables, those over the file."""
    with _clear_errors():
        settings = _settings(
            config,
            bootstrap_servers=bootstrap_servers,
            group=group,
            model=model,
            taxonomy=taxonomy,
            engine=engine,
            device=device,
            web_host=web_host,
            web_port=web_port,
            log_format=log_format,
            log_level=log_level,
        )
        from worker import app

        _exit(app.run(settings))


@koner.command()
def demo(
    records: Annotated[
        int | None, typer.Option(min=1, help="Records to send; by default every sample once.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the live page; by default 6066 or any.", show_default=False),
    ] = None,
    page: Annotated[bool, typer.Option(help="Keep the live page up until Ctrl-C, on a terminal.")] = True,
) -> None:
    """Show it all on this machine: a broker, sample queries and reviews, the worker, and what comes out."""
    with _clear_errors():
        from worker.demo.show import run as show

        _exit(show(records, port, page=page))


@koner.command()
def annotate(
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="Lines to annotate; stdin by default.", show_default=False),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A text a line, instead of JSON objects with `text`.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="File to write, instead of stdout.")
    ] = None,
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
) -> None:
    """Write JSON lines with the entities of each text."""
    with _clear_errors():
        settings = _settings(None, model=model, taxonomy=taxonomy, engine=engine, device=device)
        loaded = _load(settings)
        from worker.ner.lines import LineError, annotate_lines

        if file is None and sys.stdin.isatty():
            print("reading lines from the terminal; Ctrl-D ends them", file=sys.stderr)
        with ExitStack() as stack:
            reading = stack.enter_context(file.open("rb")) if file else sys.stdin.buffer
            writing = stack.enter_context(output.open("wb")) if output else sys.stdout.buffer
            advance = stack.enter_context(_progress("annotating", total=_lines(file) if file else None))
            done = 0

            def count(lines: int) -> None:
                nonlocal done
                done += lines
                advance(done, f"{done:,}")

            try:
                counts = annotate_lines(loaded, reading, writing, plain=plain, progress=count)
            except LineError as error:
                _fail(f"{file or 'stdin'}: {error}")
        if sys.stderr.isatty():
            found = ", ".join(f"{kind} {number:,}" for kind, number in counts.entities.items())
            print(f"{counts.texts:,} texts; {found or 'no entities'}", file=sys.stderr)


@koner.command()
def evaluate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON lines with gold spans, see below.")],
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
) -> None:
    """Score a model on texts with gold spans; prints the scores as JSON.

    FILE holds lines with `text` and `entities` (`start`, `end`, `type`), as `koner annotate` writes them, or is a KLUE
    development file with `fine` spans, or with `klue` spans for the taxonomy klue.
    """
    with _clear_errors():
        settings = _settings(None, model=model, taxonomy=taxonomy, engine=engine, device=device)
        loaded = _load(settings)
        from worker.training.scoring import score

        with _progress("evaluating") as advance:
            try:
                scores = score(loaded, settings.taxonomy, file, lambda part: advance(part, ""))
            except (OSError, ValueError) as error:
                _fail(str(error))
        rows = [{"type": kind, **of} for kind, of in scores["types"].items()]
        rows += [{"type": "all (micro)", **scores["micro"]}]
        _answer(scores, rows, ("type", "precision", "recall", "f1", "true"))


@koner.command()
def models(
    model: Annotated[str, typer.Argument(help="bundled, or a folder.")] = "bundled",
) -> None:
    """Tell what a model is: name, revision, labels, taxonomies, engines and sizes, as JSON."""
    with _clear_errors():
        from worker.ner.errors import ModelError
        from worker.ner.listing import list_model

        try:
            listing = list_model(model).as_json()
        except ModelError as error:
            _fail(str(error))
        rows = [{"what": name, "model": listing[name]} for name in listing]
        _answer(listing, rows, ("what", "model"))


@koner.command()
def bench(
    file: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="JSON lines with `text`; by default the demo's.",
            show_default=False,
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A text a line, instead of JSON objects with `text`.")] = False,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens in a batch, padding counted.", show_default=False)
    ] = None,
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
) -> None:
    """Time a model alone on texts, without any Kafka; prints the figures as JSON."""
    with _clear_errors():
        settings = _settings(
            None, model=model, taxonomy=taxonomy, engine=engine, device=device, batch_tokens=batch_tokens
        )
        texts = _texts(file, plain)
        loaded = _load(settings)
        from worker.ner.bench import bench as time_engine

        try:
            figures = asdict(time_engine(loaded, texts, batch_tokens=settings.batch_tokens))
        except ValueError as error:
            _fail(f"{file}: {error}")
        rows = [{"what": name, "measured": figures[name]} for name in figures]
        _answer(figures, rows, ("what", "measured"))


@koner.command()
def train(
    recipe: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TOML file that says how to train.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the model to write.")],
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of the texts, instead of the recipe's.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Wheel of the base model, instead of the recipe's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that the folder holds.")] = False,
) -> None:
    """Train a model by a recipe; prints the folder, revision and scores as JSON."""
    with _clear_errors():
        from worker import logs

        logs.configure("auto")
        try:
            from worker.training.run import train as train_model
        except ModuleNotFoundError as error:
            _fail(f"training needs {error.name}: pip install 'koner-stream[train]'")
        with _progress("training") as progress:
            try:
                trained = train_model(
                    recipe,
                    out,
                    data=data,
                    base=base,
                    resume=resume,
                    progress=lambda step: progress(step.part, f"step {step.step:,}, loss {step.loss:.3f}"),
                )
            except (OSError, ValueError) as error:
                _fail(str(error))
        _print(asdict(trained))


@topics_commands.command("create")
def create_topics(
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each topic.")] = 3,
    replication: Annotated[int, typer.Option(min=1, help="Copies of each partition.")] = 1,
    config: Config = None,
    bootstrap_servers: Servers = None,
) -> None:
    """Make the topics that the settings name and the cluster lacks; prints what became of each as JSON."""
    with _clear_errors():
        settings = _settings(config, bootstrap_servers=bootstrap_servers)
        from worker.stream import topics

        outcomes = _ask_cluster(settings, topics.create(settings, partitions=partitions, replication=replication))
        rows = [asdict(outcome) for outcome in outcomes]
        _answer(rows, rows, ("topic", "outcome", "partitions"))


@topics_commands.command("list")
def list_topics(config: Config = None, bootstrap_servers: Servers = None) -> None:
    """Tell which of the topics that the settings name exist, as JSON."""
    with _clear_errors():
        settings = _settings(config, bootstrap_servers=bootstrap_servers)
        from worker.stream import topics

        missing = _ask_cluster(settings, topics.missing(settings))
        rows = [{"topic": name, "exists": name not in missing} for name in topics.required(settings)]
        _answer(rows, rows, ("topic", "exists"))


@koner.command("settings")
def show_settings(config: Config = None) -> None:
    """Show every setting: its name, KONER_ variable, default, and value now."""
    with _clear_errors():
        from worker.settings import describe

        rows = describe(_settings(config))
        _answer(rows, rows, ("name", "value", "default", "description"))


def _load(settings: "Settings") -> "Engine":
    from worker import logs
    from worker.ner.errors import ModelError
    from worker.ner.loading import load_engine

    logs.configure("text", "warning")
    try:
        return load_engine(
            settings.model,
            taxonomy=settings.taxonomy,
            engine=settings.engine,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
        )
    except ModelError as error:
        _fail(str(error))


def _ask_cluster(settings: "Settings", question: Coroutine[Any, Any, Answer]) -> Answer:
    import asyncio
    import logging

    from worker.settings import SettingsError
    from worker.stream.errors import StreamError

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it says at length what is one line here
    try:
        return asyncio.run(question)
    except (SettingsError, StreamError) as error:
        _fail(str(error))
    except (RuntimeError, OSError) as error:  # aiokafka's own are RuntimeErrors
        _fail(
            f"no answer from {settings.bootstrap_servers} ({type(error).__name__}); check that a broker is there, "
            "bootstrap_servers and the security settings"
        )


def _texts(file: Path | None, plain: bool) -> list[str]:
    if file is None:
        from worker.demo.feed import samples

        return [json.loads(sample.value)["text"] for sample in samples()]
    texts = []
    with file.open(encoding="utf-8") as lines:
        try:
            for line in lines:
                if line.strip():
                    texts.append(line.rstrip("\n") if plain else str(json.loads(line)["text"]))
        except (KeyError, TypeError, ValueError):
            _fail(f"{file}, line {len(texts) + 1}: no JSON object with `text`; for lines of plain text use --plain")
    return texts


def _lines(file: Path) -> int:
    with file.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b"")) or 1


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn what a user can cause into one line and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        _fail("interrupted")


def _settings(config: Path | None, **overrides: Any) -> "Settings":
    from worker.settings import SettingsError, load

    try:
        return load(config, **overrides)
    except SettingsError as error:
        _fail(str(error), WRONG_CALL)


def _fail(message: str, code: int = FAILED) -> NoReturn:
    print(f"koner: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code) from None


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


def _print(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, default=str))


def _answer(value: Any, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print `value` as JSON on stdout for a program, and `rows` as a table on stderr where a person looks on."""
    if sys.stderr.isatty():
        _table(rows, columns)
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        _print(value)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    Console(stderr=True).print(table)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.4g}"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case list():
            return ", ".join(_cell(one) for one in value)
        case dict():
            return "; ".join(f"{name}: {_cell(one)}" for name, one in value.items())
    return str(value)


@contextmanager
def _progress(what: str, total: float | None = 1.0) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr where that is a terminal; the function takes how much of `total` is done, and a word on it."""
    if not sys.stderr.isatty():
        yield lambda done, word: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[word]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, word="")
        yield lambda done, word: bar.update(task, completed=done, word=word)


if __name__ == "__main__":
    main()
