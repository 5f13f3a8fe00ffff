import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from logging_state import logging_restored
from typer.testing import CliRunner

from worker import cli
from worker.demo.broker import EmbeddedBroker
from worker.settings import Settings

LISTED = (
    *("run", "demo", "topics", "settings"),
    *("annotate", "evaluate", "models", "bench", "train"),
    *("verify", "dead-letters", "replay"),
)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("KONER_")]:
        monkeypatch.delenv(name)
    with logging_restored():
        yield


def koner(*arguments: str, text: str | None = None, **environment: str) -> Done:
    """Run the command line in this process."""
    result = CliRunner().invoke(cli.koner, arguments, input=text, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def koner_process(*arguments: str, text: str | None = None, **environment: str) -> Done:
    """Run the command as a user would."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def one_line(done: Done) -> str:
    """What the command says when it fails: one line, on stderr, and no traceback."""
    (line,) = done.stderr.splitlines()
    assert done.stdout == ""
    assert line.startswith("koner: ")
    return line.removeprefix("koner: ")


def test_help_lists_the_commands() -> None:
    done = koner("--help")
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in LISTED)


@pytest.mark.parametrize("command", LISTED)
def test_every_command_has_help(command: str) -> None:
    done = koner(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from worker import cli\n"
        "sys.argv = ['koner', '--help']\n"
        "try:\n    cli.main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'aiokafka', 'faust', 'numpy', 'onnxruntime', 'torch', 'tokenizers', 'pydantic', 'rich'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_version_is_the_package_s() -> None:
    assert koner("--version").stdout.strip() == "0.1.0"


def test_no_command_is_a_wrong_call() -> None:
    done = koner()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("fly",), ("run", "--fast"), ("run", "--engine", "tensorflow"), ("train", "no-such.toml", "--out", "x")],
)
def test_a_wrong_call_is_told_apart(arguments: tuple[str, ...]) -> None:
    done = koner(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_json_for_a_program(tmp_path: Path) -> None:
    config = tmp_path / "koner.toml"
    config.write_text('group = "검색"\nsasl_password = "open sesame"\n', encoding="utf-8")
    done = koner_process(
        "settings", "--config", str(config), KONER_WEB_PORT="7000", LANG="C", LC_ALL="C", PYTHONUTF8="0"
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = {one["name"]: one["value"] for one in json.loads(done.stdout)}
    assert list(told) == list(Settings.model_fields)
    assert (told["group"], told["web_port"]) == ("검색", 7000)
    assert "sesame" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (("run", "--web-port", "70000"), {}, "--web-port: Input should be less than or equal to 65535"),
        (("run", "--config", "no-such.toml"), {}, "no-such.toml: no such file; --config takes a TOML file of settings"),
        (("run",), {"KONER_WEB_PORT": "x"}, "KONER_WEB_PORT: Input should be a valid integer, "),
        (("settings",), {"KONER_SOURCES": "x"}, "KONER_SOURCES: not JSON; give a list of objects as in [[sources]]"),
    ],
)
def test_wrong_settings_are_one_clear_line(arguments: tuple[str, ...], environment: dict[str, str], told: str) -> None:
    done = koner(*arguments, **environment)
    assert done.returncode == 2
    assert one_line(done).startswith(told)


def test_a_wrong_recipe_is_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("nonsense = 1\n")
    done = koner("train", str(recipe), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert one_line(done)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "RECIPE or --from MODEL: give one"),
        (("pyproject.toml", "--from", "bundled"), "RECIPE or --from MODEL: they are two ways to train"),
        (("pyproject.toml", "--labels", "pyproject.toml"), "--labels goes with --from"),
        (("pyproject.toml", "--data", "pyproject.toml"), "--data pyproject.toml: a recipe takes a folder of texts"),
        (("--from", "bundled"), "--from needs --data FILE as well"),
        (("--from", "bundled", "--data", "pyproject.toml"), "--from needs --labels FILE as well"),
        (("--from", "bundled", "--data", "docs", "--labels", "pyproject.toml"), "--data docs: a folder"),
        (("--from", "bundled", "--teacher", "docs"), "--teacher goes with a RECIPE"),
    ],
)
def test_two_ways_to_train_that_are_mixed_are_one_clear_line(arguments: tuple[str, ...], told: str) -> None:
    done = koner("train", *arguments, "--out", "never-made")
    assert done.returncode == 2
    assert one_line(done).startswith(told)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _READS_ONE_BYTE, sys.executable], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "0 b''\n"


_READS_ONE_BYTE = """
import subprocess, sys
command = [sys.argv[1], "-m", "worker.cli", "settings"]
process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
process.stdout.close()
errors = process.stderr.read()
print(process.wait(), errors)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_is_no_error_and_becomes_no_socket(closed: str, tmp_path: Path) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable]
    done = subprocess.run([*command, "-m", "worker.cli", "settings"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, bool(done.stdout)) == (0, "", closed == "2>&-")
    told = tmp_path / "told"
    subprocess.run([*command, "-c", _TELLS_WHAT_IS_OPEN, str(told)], check=True, timeout=60)
    opened = json.loads(told.read_text())
    assert [opened[number] == os.devnull for number in (1, 2)] == [">&-" in closed.split(), "2>&-" in closed]


_TELLS_WHAT_IS_OPEN = """
import json, os, pathlib, sys
from worker import cli
told = sys.argv[1]
sys.argv = ["koner", "--version"]
try:
    cli.main()
except SystemExit:
    pathlib.Path(told).write_text(json.dumps([os.readlink(f"/proc/self/fd/{number}") for number in range(3)]))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder whose weights are random, and whose spans mean nothing."""
    pytest.importorskip("torch")
    from model_folder import make_model_folder

    return str(make_model_folder(tmp_path_factory.mktemp("tiny")))


def test_annotate_adds_entities_to_json_lines_and_keeps_the_rest(tiny: str, tmp_path: Path) -> None:
    lines = tmp_path / "reviews.jsonl"
    lines.write_text('{"id": 12345678901234567890123, "text": "이병헌 😀 영화"}\n\n{"text": ""}\n', encoding="utf-8")
    done = koner("annotate", str(lines), "--model", tiny, KONER_TAXONOMY="own")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["id"] == 12345678901234567890123
    assert first["entities"]
    assert all(first["text"][one["start"] : one["end"]] == one["text"] for one in first["entities"])
    assert second == {"text": "", "entities": []}


def test_annotate_reads_plain_lines_from_stdin_and_writes_a_file(tiny: str, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    done = koner("annotate", "--plain", "-o", str(output), text="이병헌\n부산\n", KONER_MODEL=tiny)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [json.loads(line)["text"] for line in output.read_text("utf-8").splitlines()] == ["이병헌", "부산"]


def test_annotate_does_not_write_over_what_it_reads(tiny: str, tmp_path: Path) -> None:
    lines = tmp_path / "reviews.jsonl"
    lines.write_text('{"text": "이병헌"}\n', encoding="utf-8")
    link = tmp_path / "link.jsonl"
    link.symlink_to(lines)
    done = koner("annotate", str(lines), "-o", str(link), KONER_MODEL=tiny)
    assert done.returncode == 2
    assert "is the file to annotate" in one_line(done)
    assert lines.read_text("utf-8") == '{"text": "이병헌"}\n'


@pytest.mark.parametrize("command", ["annotate", "evaluate"])
def test_a_file_may_be_a_pipe(tiny: str, tmp_path: Path, command: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = '{"text": "이병헌", "entities": []}\n' * 3
    with ThreadPoolExecutor() as other:
        writing = other.submit(pipe.write_text, text, "utf-8")
        done = koner(command, str(pipe), KONER_MODEL=tiny, KONER_TAXONOMY="own")
        writing.result(timeout=10)
    assert (done.returncode, done.stderr) == (0, "")
    if command == "annotate":
        assert len(done.stdout.splitlines()) == 3
    else:
        assert json.loads(done.stdout)["texts"] == 3


@pytest.mark.parametrize("output", ["no/such/folder/out.jsonl", "/dev/full"])
def test_an_output_that_cannot_be_written_is_one_clear_line(tiny: str, output: str) -> None:
    done = koner("annotate", "--plain", "-o", output, text="이병헌\n", KONER_MODEL=tiny)
    assert done.returncode == 1
    assert one_line(done)


def test_annotate_writes_korean_under_a_plain_locale(tiny: str) -> None:
    done = koner_process("annotate", "--plain", "--model", tiny, text="이병헌\n", LANG="C", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0
    assert json.loads(done.stdout)["text"] == "이병헌"


def test_annotate_names_the_line_that_is_wrong_and_quotes_nothing_of_it(tiny: str) -> None:
    done = koner("annotate", "--model", tiny, text='{"text": "가"}\n{"words": "남의 말"}\n')
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == 'koner: stdin: line 2: no field "text" that is a string\n'


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("annotate", "--model", "./no/such/folder"), "no/such/folder: no such folder"),
        (("models", "./no/such/folder"), "no/such/folder: no such folder"),
        (("annotate", "--taxonomy", "colours"), "taxonomy colours: neither one of"),
        (("bench", "--engine", "onnxruntime", "--device", "cuda"), "engine onnxruntime runs on the CPU"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_clear_line(tiny: str, arguments: tuple[str, ...], told: str) -> None:
    done = koner(*arguments, text="", KONER_MODEL=tiny)
    assert done.returncode == 1
    assert told in one_line(done)


def test_run_with_a_model_that_is_not_there_is_one_clear_line() -> None:
    done = koner_process("run", "--model", "./no/such/folder", "--log-format", "json")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = (json.loads(line) for line in done.stderr.splitlines())
    assert (line["level"], line["message"]) == ("error", "model ./no/such/folder: no such folder")


def test_models_tells_what_a_folder_is(tiny: str) -> None:
    done = koner("models", tiny)
    told = json.loads(done.stdout)
    assert (told["name"], told["engines"], told["taxonomies"]) == (
        "tiny",
        ["onnxruntime", "torch"],
        ["seed", "movies", "klue", "own"],
    )
    assert len(told["revision"]) == 12
    assert told["layers"]["klue"] == ["PS", "LC", "OG", "DT", "TI", "QT"]
    assert told["bytes"] == sum(file.stat().st_size for file in Path(tiny).iterdir())


def test_what_annotate_wrote_scores_full_marks(tiny: str, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    koner("annotate", "--plain", "-o", str(gold), text="이병헌 영화\n부산 좋아요\n", KONER_MODEL=tiny)
    scores = json.loads(koner("evaluate", str(gold), KONER_MODEL=tiny).stdout)
    assert (scores["texts"], scores["failed"], scores["macro_f1"]) == (2, 0, 1.0)
    assert scores["micro"]["right"] == scores["micro"]["true"] > 0


def test_klue_files_are_scored_by_the_layer_of_the_taxonomy(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "dev.jsonl"
    text = "이병헌 영화"
    row = {"id": "1", "text": text, "klue": [[0, 3, "PS"]], "fine_text": text, "fine": [[0, 3, "AFA_VIDEO"]]}
    file.write_text(json.dumps(row), encoding="utf-8")
    fine = json.loads(koner("evaluate", str(file), KONER_MODEL=tiny).stdout)
    assert fine["types"]["PRODUCT"]["true"] == 1
    assert "klue" not in fine
    klue = json.loads(koner("evaluate", str(file), "--taxonomy", "klue", KONER_MODEL=tiny).stdout)
    assert klue["types"]["PS"]["true"] == 1
    assert {"entity_macro_f1", "character_macro_f1"} < set(klue["klue"])


def test_klues_protocol_takes_its_taxonomy_and_tells_every_tag(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "dev.jsonl"
    file.write_text(json.dumps({"id": "1", "text": "이병헌 영화", "klue": [[0, 3, "PS"]]}), encoding="utf-8")
    klue = json.loads(koner("evaluate", str(file), "--protocol", "klue", KONER_MODEL=tiny).stdout)
    assert klue["taxonomy"] == "klue"
    assert klue["klue"]["entities"]["PS"]["true"] == 1
    assert klue["klue"]["characters"]["I-PS"]["true"] == 2
    assert klue["klue"]["characters"]["O"]["true"] == 2  # the space is left out
    wrong = koner("evaluate", str(file), "--protocol", "klue", "--taxonomy", "seed", KONER_MODEL=tiny)
    assert wrong.returncode == 2
    assert "leave one of them out" in one_line(wrong)
    file.write_text('{"text": "가", "entities": []}', encoding="utf-8")
    without = koner("evaluate", str(file), "--protocol", "klue", KONER_MODEL=tiny)
    assert without.returncode == 1
    assert "hold no klue spans" in one_line(without)


def test_mistakes_are_written_to_be_read_and_nowhere_else(tiny: str, tmp_path: Path) -> None:
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    files[0].write_text('{"text": "이병헌", "entities": [{"start": 1, "end": 2, "label": "WORK"}]}', encoding="utf-8")
    files[1].write_text('{"text": "", "entities": []}', encoding="utf-8")
    done = koner("evaluate", *map(str, files), "--errors", str(tmp_path / "errors.jsonl"), KONER_MODEL=tiny)
    scores = json.loads(done.stdout)
    assert scores["texts"] == 2
    assert scores["types"]["PRODUCT"]["true"] == 1  # as the default taxonomy folds WORK
    assert scores["empty_texts"] == 1
    [row] = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text("utf-8").splitlines()]
    assert row["text"] == "이병헌"
    assert {"start": 1, "end": 2, "text": "병", "type": "PRODUCT"} in row["missed"]
    assert "이병헌" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [
        ("spans", ["all (micro)", "mean (macro)", "taken for", "none", "false_spans_in_empty_texts"]),
        ("klue", ["PS", "I-PS", "entities (macro)", "characters (macro)"]),
    ],
)
def test_a_person_at_a_terminal_gets_the_scores_as_tables(
    tiny: str, tmp_path: Path, protocol: str, shown: list[str]
) -> None:
    file = tmp_path / "dev.jsonl"
    row = {"id": "1", "text": "이병헌 영화", "klue": [[0, 3, "PS"]], "fine_text": "이병헌", "fine": [[0, 3, "PS_NAME"]]}
    file.write_text(json.dumps(row), encoding="utf-8")
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "evaluate", str(file), "--protocol", protocol],
        env={**os.environ, "KONER_MODEL": tiny, "COLUMNS": "160", "TERM": "dumb"},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    seen = b""
    with os.fdopen(controller, "rb", buffering=0) as output, contextlib.suppress(OSError):  # its way to say the end
        for part in iter(lambda: output.read(1 << 16), b""):
            seen += part
    assert process.wait(60) == 0
    told = seen.decode()
    assert [word for word in shown if word not in told] == []
    assert "{" not in told
    assert "이병헌" not in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no texts in it"),
        ("{", "line 1: not JSON"),
        ("[]", "line 1: not a JSON object"),
        ('\ufeff{"text": "가"}', "its lines hold neither entities nor fine"),
        ('{"text": "가"}', "its lines hold neither entities nor fine"),
        ('{"text": "가", "entities": [{"start": 0, "end": 2, "type": "PER"}]}', "line 1: needs text, and entities"),
    ],
)
def test_a_file_without_gold_is_one_clear_line(tiny: str, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "gold.jsonl"
    file.write_text(text, encoding="utf-8")
    done = koner("evaluate", str(file), KONER_MODEL=tiny)
    assert done.returncode == 1
    assert told in one_line(done)


def test_bench_times_the_model_on_texts(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("이병헌\n부산\n" * 20, encoding="utf-8")
    figures = json.loads(koner("bench", str(file), "--plain", KONER_MODEL=tiny).stdout)
    assert figures["texts"] == 40
    assert figures["texts_per_second"] > 0
    done = koner("bench", str(file), KONER_MODEL=tiny)
    assert one_line(done).endswith("line 1: no JSON object with `text`; for lines of plain text use --plain")


def test_topics_are_made_and_listed(embedded: EmbeddedBroker, unique: Callable[[str], str]) -> None:
    name = unique("cli")
    sources = [{"topic": f"{name}.raw", "kind": "query", "output": f"{name}.enriched"}]
    environment = {
        "KONER_BOOTSTRAP_SERVERS": embedded.bootstrap_servers,
        "KONER_SOURCES": json.dumps(sources),
        "KONER_DEAD_LETTER_TOPIC": f"{name}.dead",
    }
    before = json.loads(koner("topics", "list", **environment).stdout)
    assert before == [{"topic": f"{name}.{topic}", "exists": False} for topic in ("raw", "enriched", "dead")]
    made = json.loads(koner("topics", "create", "--partitions", "2", **environment).stdout)
    assert {(one["outcome"], one["partitions"]) for one in made} == {("created", 2)}
    after = json.loads(koner("topics", "list", **environment).stdout)
    assert all(one["exists"] for one in after)


def test_topics_on_a_broker_that_is_away_are_one_clear_line() -> None:
    done = koner("topics", "list", "--bootstrap-servers", "127.0.0.1:9")
    assert done.returncode == 1
    assert one_line(done).startswith("no answer from 127.0.0.1:9 (KafkaConnectionError)")
