"""The rooms of `worker/` import each other in one direction only, and each keeps to its own libraries."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKER = ROOT / "worker"

# Which rooms a room may import: cli -> process -> app -> stream -> (contracts, ner, enrich) -> (text, records).
ARROWS: dict[str, frozenset[str]] = {
    "records": frozenset(),
    "text": frozenset({"records"}),
    "contracts": frozenset({"text", "records"}),
    "ner": frozenset({"text", "records"}),
    "enrich": frozenset({"text", "records"}),
    "settings": frozenset({"records"}),
    "logs": frozenset({"settings"}),
    "observe": frozenset({"records", "settings"}),
    "stream": frozenset({"contracts", "ner", "enrich", "text", "records", "settings", "observe"}),
    "audit": frozenset({"stream", "contracts", "records", "settings"}),
    "recovery": frozenset({"audit", "stream", "contracts", "ner", "text", "records", "settings", "observe"}),
    "app": frozenset({"stream", "contracts", "ner", "enrich", "text", "records", "settings", "observe"}),
    "process": frozenset({"app", "stream", "ner", "settings", "logs"}),
    "training": frozenset({"ner", "text", "records"}),
    "demo": frozenset({"app", "stream", "contracts", "ner", "text", "records", "settings", "observe", "logs"}),
    "cli": frozenset(
        {"process", "app", "stream", "contracts", "ner", "enrich", "text", "records", "settings", "observe", "logs"}
        | {"training", "demo", "audit", "recovery"}
    ),
}

KAFKA = frozenset({"aiokafka", "faust", "mode", "kafka"})
MODELS = frozenset({"torch", "transformers", "onnxruntime", "onnx", "tokenizers", "safetensors"})
WEB = frozenset({"aiohttp"})
# Libraries that a room must not know.
FOREIGN: dict[str, frozenset[str]] = {
    "records": KAFKA | MODELS | WEB,
    "text": KAFKA | MODELS | WEB,
    "contracts": KAFKA | MODELS | WEB,
    "ner": KAFKA | WEB,
    "enrich": KAFKA | WEB,
    "settings": KAFKA | MODELS | WEB,
    "observe": MODELS | {"aiokafka"},  # Faust serves its pages
    "training": KAFKA | WEB,
    "stream": MODELS | WEB,
    "audit": MODELS | WEB,
    "recovery": MODELS | WEB,
    "app": MODELS,
    "process": MODELS,
    "cli": KAFKA | MODELS | WEB,
    "demo": MODELS,
}


@dataclass(frozen=True, slots=True)
class Import:
    """One import: the file and line it stands on, the room it stands in, and the dotted name it asks for."""

    file: str
    line: int
    room: str
    name: str


def _names(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names that a node imports, lazily or not; `package` is where a relative import starts from."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        start = package[: len(package) - node.level + 1] if node.level else ()
        module = ".".join((*start, *((node.module,) if node.module else ())))
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value


def imports(worker: Path) -> Iterator[Import]:
    """Every import of every module under `worker`, those inside functions and under TYPE_CHECKING included."""
    for file in sorted(worker.rglob("*.py")):
        inside = file.relative_to(worker)
        if inside == Path("__init__.py"):
            continue
        package = (worker.name, *inside.parent.parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            for name in _names(node, package):
                yield Import(
                    str(Path(worker.name) / inside),
                    getattr(node, "lineno", 0),
                    inside.parts[0].removesuffix(".py"),
                    name,
                )


def violations(worker: Path) -> list[str]:
    """What breaks the arrows: a line for each import that should not be there, and for each unknown room."""
    found = []
    for entry in imports(worker):
        where = f"{entry.file}:{entry.line}"
        top, _, rest = entry.name.partition(".")
        if entry.room not in ARROWS:
            found.append(f"{where}: {entry.room} is no room of ARROWS")
        elif top == worker.name:
            room = rest.partition(".")[0]
            if room and room != entry.room and room not in ARROWS[entry.room] and room != "__version__":
                found.append(f"{where}: {entry.room} must not import {entry.name}")
        elif top in FOREIGN.get(entry.room, frozenset()):
            found.append(f"{where}: {entry.room} must not know {top}")
    return found


def test_rooms_import_only_along_the_arrows() -> None:
    assert violations(WORKER) == []


def test_every_room_of_the_tree_is_looked_at() -> None:
    rooms = {
        path.name.removesuffix(".py")
        for path in WORKER.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms - {"__init__"} <= set(ARROWS)
    assert {entry.room for entry in imports(WORKER)} >= {"settings", "ner", "observe"}


def test_the_arrows_have_no_cycle() -> None:
    def reach(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, " -> ".join((*path, room))
        for other in ARROWS[room]:
            reach(other, (*path, room))

    for room in ARROWS:
        reach(room, ())


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("ner/engine.py", "from worker.stream import pipeline", "ner must not import worker.stream.pipeline"),
        ("ner/engine.py", "import worker.observe.metrics", "ner must not import worker.observe.metrics"),
        ("ner/engine.py", "def f():\n    import aiokafka.structs", "ner must not know aiokafka"),
        ("ner/deep/er.py", "from ...process import run", "ner must not import worker.process.run"),
        ("text/offsets.py", "from worker import settings", "text must not import worker.settings"),
        ("stream/sink.py", "async def f():\n    if True:\n        from torch import nn", "stream must not know torch"),
        (
            "stream/sink.py",
            "import importlib\nimportlib.import_module('onnxruntime')",
            "stream must not know onnxruntime",
        ),
        ("contracts/raw.py", "from ..ner.engine import Engine", "contracts must not import worker.ner.engine.Engine"),
        (
            "training/run.py",
            "from worker.settings import Settings",
            "training must not import worker.settings.Settings",
        ),
        ("attic.py", "import json", "attic is no room of ARROWS"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    planted = tmp_path / "worker" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(source + "\n", encoding="utf-8")
    (line,) = violations(tmp_path / "worker")
    assert line.endswith(complaint)
    assert line.startswith(f"worker/{file}:")


def test_allowed_imports_are_not_complained_about(tmp_path: Path) -> None:
    tree = tmp_path / "worker"
    (tree / "stream").mkdir(parents=True)
    (tree / "stream" / "sink.py").write_text(
        "import aiokafka\nfrom worker.ner.engine import Engine\nfrom . import source\nfrom .source import Source\n"
    )
    (tree / "cli.py").write_text("def main():\n    from worker.training.run import train\n")
    assert violations(tree) == []


def test_the_worker_starts_without_the_torch_extra_loaded() -> None:
    program = (
        "import sys, worker.process, worker.cli, worker.ner.loading\n"
        "print(sorted({'torch', 'transformers', 'onnx'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
