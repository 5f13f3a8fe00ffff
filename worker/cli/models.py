"""The commands about models: annotate, evaluate, models, bench, train."""

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from worker.cli.answers import WRONG_CALL, answer, clear_errors, details, fail, print_json, progress
from worker.cli.loading import engine_of, settings_of
from worker.cli.options import Device, EngineName, Model, Plain, Taxonomy

if TYPE_CHECKING:
    from worker.training.loop import Step


def annotate(
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="Lines to annotate; stdin by default.", show_default=False),
    ] = None,
    plain: Plain = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="File to write, instead of stdout.")
    ] = None,
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
) -> None:
    """Write JSON lines with the entities of each text."""
    with clear_errors():
        if file and output and output.exists() and output.samefile(file):
            fail(f"--output {output}: is the file to annotate; choose another", WRONG_CALL)
        settings = settings_of(None, model=model, taxonomy=taxonomy, engine=engine, device=device)
        loaded = engine_of(settings)
        from worker.ner.lines import LineError, annotate_lines

        if file is None and sys.stdin.isatty():
            print("reading lines from the terminal; Ctrl-D ends them", file=sys.stderr)
        with ExitStack() as stack:
            reading = stack.enter_context(file.open("rb")) if file else sys.stdin.buffer
            writing = stack.enter_context(output.open("wb")) if output else sys.stdout.buffer
            advance = stack.enter_context(progress("annotating", total=_lines(file) if file else None))
            done = 0

            def count(lines: int) -> None:
                nonlocal done
                done += lines
                advance(done, f"{done:,}")

            try:
                counts = annotate_lines(loaded, reading, writing, plain=plain, progress=count)
            except LineError as error:
                fail(f"{file or 'stdin'}: {error}")
        if sys.stderr.isatty():
            found = ", ".join(f"{kind} {number:,}" for kind, number in counts.entities.items())
            print(f"{counts.texts:,} texts; {found or 'no entities'}", file=sys.stderr)


def evaluate(
    files: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="JSON lines with gold spans, see below.")
    ],
    protocol: Annotated[
        Literal["spans", "klue"], typer.Option(help="Exact spans of a taxonomy, or KLUE's own two figures.")
    ] = "spans",
    errors: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write the texts with mistakes to.", show_default=False)
    ] = None,
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
) -> None:
    """Score a model on texts with gold spans; prints the scores as JSON.

    FILES hold lines with `text` and `entities` (`start`, `end`, `type`), as `koner annotate` writes them, or with
    `label` for `type`, which the taxonomy folds; or are KLUE development files with `fine` spans, or with `klue` spans
    for the taxonomy klue. `--protocol klue` takes that taxonomy.
    """
    with clear_errors():
        if protocol == "klue":
            if taxonomy not in (None, "klue"):
                fail(f"--protocol klue scores KLUE's own types, not --taxonomy {taxonomy}; leave one of them out", 2)
            taxonomy = "klue"
        settings = settings_of(None, model=model, taxonomy=taxonomy, engine=engine, device=device)
        loaded = engine_of(settings)
        from worker.training.scoring import score

        with progress("evaluating") as advance:
            try:
                scores = score(
                    loaded, settings.taxonomy, files, lambda part: advance(part, ""), protocol=protocol, errors=errors
                )
            except (OSError, ValueError) as error:
                fail(str(error))
        if protocol == "klue":
            klue = scores["klue"]
            answer(scores, _score_rows(klue["entities"], "entities (macro)", klue["entity_macro_f1"]), _SCORES)
            details(_score_rows(klue["characters"], "characters (macro)", klue["character_macro_f1"]), _SCORES)
        else:
            by_type = {**scores["types"], "all (micro)": scores["micro"]}
            answer(scores, _score_rows(by_type, "mean (macro)", scores["macro_f1"]), _SCORES)
            details(*_confusion_table(scores["confusion"]))
            details([scores], ("texts", "failed", "empty_texts", "false_spans_in_empty_texts"))


_SCORES = ("type", "precision", "recall", "f1", "true")


def _score_rows(
    by_type: Mapping[str, Mapping[str, float]], mean: str, f1: float
) -> list[dict[str, str | float | None]]:
    rows: list[dict[str, str | float | None]] = [{"type": kind, **of} for kind, of in by_type.items()]
    return [*rows, {**dict.fromkeys(_SCORES), "type": mean, "f1": f1}]


def _confusion_table(
    confusion: Mapping[str, Mapping[str, int]],
) -> tuple[list[dict[str, str | int | None]], list[str]]:
    """True types down, what each was taken for across; nothing where that never was."""
    across = sorted({kind for counts in confusion.values() for kind in counts}, key=lambda kind: (kind.islower(), kind))
    rows: list[dict[str, str | int | None]] = [
        {"taken for": kind, **{name: counts.get(name) for name in across}} for kind, counts in confusion.items()
    ]
    return rows, ["taken for", *across]


def models(
    model: Annotated[str, typer.Argument(help="bundled, or a folder.")] = "bundled",
) -> None:
    """Tell what a model is: name, revision, labels, taxonomies, engines and sizes, as JSON."""
    with clear_errors():
        from worker.ner.errors import ModelError
        from worker.ner.listing import list_model

        try:
            listing = list_model(model).as_json()
        except ModelError as error:
            fail(str(error))
        rows = [{"what": name, "model": listing[name]} for name in listing]
        answer(listing, rows, ("what", "model"))


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
    plain: Plain = False,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens in a batch, padding counted.", show_default=False)
    ] = None,
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
) -> None:
    """Time a model alone on texts, without any Kafka; prints the figures as JSON."""
    with clear_errors():
        settings = settings_of(
            None, model=model, taxonomy=taxonomy, engine=engine, device=device, batch_tokens=batch_tokens
        )
        texts = _texts(file, plain)
        loaded = engine_of(settings)
        from worker.ner.bench import bench as time_engine

        try:
            figures = asdict(time_engine(loaded, texts, batch_tokens=settings.batch_tokens))
        except ValueError as error:
            fail(f"{file}: {error}")
        rows = [{"what": name, "measured": figures[name]} for name in figures]
        answer(figures, rows, ("what", "measured"))


def train(
    out: Annotated[Path, typer.Option("--out", help="Folder of the model to write.")],
    recipe: Annotated[
        Path | None,
        typer.Argument(
            exists=True, dir_okay=False, help="TOML file that says how to train a model anew.", show_default=False
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="bundled, or a folder: train that further, on your own.", show_default=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="With --from: JSON lines with text and entities. With a recipe: folder of the texts, instead of its.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="With --from: taxonomy file with all the labels that the new model will tell apart.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="With a recipe: wheel of the base model, instead of the recipe's.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="With a recipe: model folder of a teacher, instead of training the recipe's; once for each of its.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that the folder holds.")] = False,
) -> None:
    """Train a model by a recipe, or one further on your own labels; prints the folder, revision and scores as JSON.

    koner train RECIPE --out FOLDER, or koner train --from bundled --data mine.jsonl --labels mine.toml --out FOLDER
    """
    with clear_errors():
        _check_training(recipe, start, data, labels, recipe_only={"--base": base, "--teacher": teacher})
        from worker import logs

        logs.configure("auto")
        try:
            from worker.ner.errors import ModelError
            from worker.training.further import train_further
            from worker.training.run import train as train_model
        except ModuleNotFoundError as error:
            fail(f"training needs {error.name}: pip install 'koner-stream[train]'")
        trained: Any
        with progress("training") as advance:

            def show(step: "Step") -> None:
                advance(step.part, f"step {step.step:,}, loss {step.loss:.3f}")

            def show_labelling(part: float) -> None:
                advance(part, "labelling with a teacher")

            try:
                if start and data and labels:
                    texts = _texts(None, plain=False)
                    trained = train_further(start, data, labels, out, rehearsal=texts, resume=resume, progress=show)
                elif recipe:
                    trained = train_model(
                        recipe,
                        out,
                        data=data,
                        base=base,
                        teachers=teacher or (),
                        resume=resume,
                        progress=show,
                        labelling=show_labelling,
                    )
            except (OSError, ValueError, ModelError) as error:
                fail(str(error))
        print_json(asdict(trained))


def _check_training(
    recipe: Path | None,
    start: str | None,
    data: Path | None,
    labels: Path | None,
    recipe_only: Mapping[str, object],
) -> None:
    """End with one line where options of the two ways to train are mixed, or some are missing."""
    if (recipe is None) == (start is None):
        both = "they are two ways to train; give one" if recipe else "give one: a recipe trains anew, --from further"
        fail(f"RECIPE or --from MODEL: {both}", WRONG_CALL)
    if start is None:
        if labels:
            fail("--labels goes with --from; a recipe's labels are the bundled model's", WRONG_CALL)
        if data and not data.is_dir():
            fail(f"--data {data}: a recipe takes a folder of texts; a file of your own goes with --from", WRONG_CALL)
        return
    for name, value in recipe_only.items():
        if value:
            fail(f"{name} goes with a RECIPE, not with --from", WRONG_CALL)
    for name, file in {"--data": data, "--labels": labels}.items():
        if file is None:
            fail(f"--from needs {name} FILE as well", WRONG_CALL)
        if file.is_dir():
            fail(f"{name} {file}: a folder; --from takes a file", WRONG_CALL)


def _texts(file: Path | None, plain: bool) -> list[str]:
    if file is None:
        from worker.demo.feed import samples

        return [json.loads(sample.value)["text"] for sample in samples()]
    texts = []
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        fail(f"{file}: not UTF-8")
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                texts.append(line if plain else str(json.loads(line)["text"]))
        except (KeyError, TypeError, ValueError):
            fail(f"{file}, line {number}: no JSON object with `text`; for lines of plain text use --plain")
    return texts


def _lines(file: Path) -> int | None:
    """How many lines a file has; None for a pipe, which can be read but once."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b"")) or 1
