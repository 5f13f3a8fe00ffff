"""The command lines of the pages, the compose file, the image and Kubernetes are ones that `koner` takes."""

import json
import re
import shlex
from collections.abc import Iterator

import pytest
from deployment import DEPLOY, ROOT, load_yaml
from typer.testing import CliRunner

from worker.cli import koner

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def written_commands() -> Iterator[str]:
    """What follows `koner` in the code blocks and code spans of the pages, and in the containers' definitions."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(koner [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        for line in lines:
            for part in re.split(r"\s*(?:&&|\||#|>|<|;)\s*", line):
                found = re.search(r"(?:^|[\s/])koner( \w[\w-]*(?: [\w./:@\[\]'-]+)*)$", part.strip())
                if found and "docker" not in part and "kubectl" not in part:
                    yield found[1].strip()
    for service in ("topics", "worker"):
        yield shlex.join(load_yaml(ROOT / "docker-compose.yml")["services"][service]["command"])
    (container,) = load_yaml(DEPLOY / "k8s" / "deployment.yaml")["spec"]["template"]["spec"]["containers"]
    yield shlex.join(container["args"])
    (run,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    yield shlex.join(json.loads(run))


COMMANDS = sorted(set(written_commands()))


def test_the_commands_are_found() -> None:
    assert {"run", "demo", "topics create --partitions 6 --replication 1"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_koner_takes_the_command(command: str) -> None:
    taken = CliRunner().invoke(koner, [*shlex.split(command), "--help"])
    assert taken.exit_code == 0, taken.output
    assert "Usage: " in taken.output


def test_a_command_that_does_not_exist_is_not_taken() -> None:
    assert CliRunner().invoke(koner, ["topics", "create", "--no-such-option", "--help"]).exit_code == 2
