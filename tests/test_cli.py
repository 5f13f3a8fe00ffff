import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from worker import cli
from worker.settings import Settings

LISTED = ("run", "demo", "train", "settings")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KONER_")]:
        monkeypatch.delenv(name)


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
