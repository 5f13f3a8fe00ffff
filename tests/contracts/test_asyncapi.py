"""AsyncAPI's document of the topics is whole: what the specification requires is there, every reference resolves.

The requirements are those of https://www.asyncapi.com/docs/reference/specification/v3.0.0.
"""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from worker.contracts.schemas import SCHEMAS, folder, load
from worker.recovery.letters import REPLAYED_HEADER
from worker.recovery.markers import MARKER_HEADERS, marker
from worker.settings import Settings
from worker.stream.topics import required


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((folder() / "asyncapi.yaml").read_text(encoding="utf-8"))
    return parsed


def test_it_has_the_fields_of_an_asyncapi_document(document: dict[str, Any]) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(document["info"])
    allowed = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    assert set(document) <= allowed
    for server in document["servers"].values():
        assert {"host", "protocol"} <= set(server)


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    references = list(find_references(document))
    assert references
    for reference in references:
        resolve(document, reference)


def test_channels_are_the_topics_of_the_defaults(document: dict[str, Any]) -> None:
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses == {*required(Settings()), "catalogue"}


def test_every_channel_carries_messages_with_a_payload(document: dict[str, Any]) -> None:
    for channel in document["channels"].values():
        assert channel["messages"]
        for message in channel["messages"].values():
            assert "payload" in resolve(document, message["$ref"])
        for server in channel["servers"]:
            assert server["$ref"].startswith("#/servers/")


def test_markers_among_the_dead_letters_are_those_of_the_document(document: dict[str, Any]) -> None:
    message = document["components"]["messages"]["replayMarker"]
    headers = {name: value.decode() for name, value in MARKER_HEADERS}
    jsonschema_rs.validator_for(message["headers"]).validate(headers)
    jsonschema_rs.validator_for(message["payload"]).validate(json.loads(marker([3, 4, 5, 9])))
    assert json.loads(marker([3, 4, 5, 9]))["offsets"] == [[3, 5], [9, 9]]
    assert not jsonschema_rs.validator_for(message["headers"]).is_valid({**headers, "koner-reason": "schema"})


def test_the_header_of_what_was_sent_back_is_described_wherever_it_stands(document: dict[str, Any]) -> None:
    assert REPLAYED_HEADER in load("dead-letter")["properties"]
    for name in ("rawQuery", "rawReview"):
        headers = resolve(document, document["components"]["messages"][name]["headers"]["$ref"])
        assert REPLAYED_HEADER in headers["properties"]


def test_every_channel_has_an_operation_that_reads_or_writes_it(document: dict[str, Any]) -> None:
    used = set()
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]["$ref"].startswith("#/channels/")
        used.add(operation["channel"]["$ref"].rpartition("/")[2])
    assert used == set(document["channels"])


def test_every_schema_describes_a_message(document: dict[str, Any]) -> None:
    files = {reference for reference in find_references(document) if not reference.startswith("#")}
    assert files == {f"{name}.json" for name in SCHEMAS}


def test_it_has_the_version_of_the_package(document: dict[str, Any]) -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert document["info"]["version"] == tomllib.loads(project.read_text())["project"]["version"]


def find_references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            assert set(node) == {"$ref"}, f"a reference has no siblings: {node}"
            yield node["$ref"]
        for child in node.values():
            yield from find_references(child)
    elif isinstance(node, list):
        for child in node:
            yield from find_references(child)


def resolve(document: dict[str, Any], reference: str) -> Any:
    if not reference.startswith("#"):
        return load(reference.removesuffix(".json"))
    target: Any = document
    for step in reference.removeprefix("#/").split("/"):
        target = target[step]
    return resolve(document, target["$ref"]) if "$ref" in target else target
