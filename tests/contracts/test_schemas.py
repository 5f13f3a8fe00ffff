"""The schemas are sound, and the code says the same as they do."""

from dataclasses import fields
from typing import Any, get_args

import jsonschema_rs
import pytest

from worker.contracts import Reason
from worker.contracts.contracts import ADDED, RAW_SCHEMAS
from worker.contracts.dead_letters import dead_letter_headers
from worker.contracts.refusal import MAX_DETAIL_CHARS
from worker.contracts.schemas import SCHEMAS, folder, load, validator
from worker.records import Enrichment, Entity, Kind, Origin


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_against_its_metaschema(name: str) -> None:
    schema = load(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_says_what_it_is_and_shows_it(name: str) -> None:
    schema = load(name)
    assert schema["$id"].endswith(f"/{name}.json")
    assert schema["title"]
    assert schema["description"]
    assert schema["examples"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_examples_of_a_schema_are_valid(name: str) -> None:
    compiled = validator(name)
    for example in load(name)["examples"]:
        compiled.validate(example)


def test_every_schema_file_is_known() -> None:
    assert sorted(entry.name for entry in folder().iterdir() if entry.name.endswith(".json")) == sorted(
        f"{name}.json" for name in SCHEMAS
    )


@pytest.mark.parametrize("example", load("enriched")["examples"])
def test_the_spans_of_the_enriched_examples_are_exact(example: dict[str, Any]) -> None:
    for entity in example["entities"]:
        assert example[entity["field"]][entity["start"] : entity["end"]] == entity["text"]


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("raw-query", {"query_id": "1"}),
        ("raw-query", {"query_id": 1, "text": "a"}),
        ("raw-query", {"query_id": "1", "text": "a", "searched_at": "yesterday"}),
        ("raw-review", {"query_id": "1", "text": "a"}),
        ("raw-review", {"review_id": "1", "text": "a", "rating": "9"}),
        ("enriched", {**load("enriched")["examples"][0], "review_id": 7}),
        ("enriched", {**load("enriched")["examples"][1], "query_id": 7}),
        ("enriched", {**load("enriched")["examples"][0], "entities": [{"start": 0}]}),
        ("dead-letter", {**load("dead-letter")["examples"][0], "koner-reason": "because"}),
        ("dead-letter", {**load("dead-letter")["examples"][0], "koner-offset": "-1"}),
        ("catalogue-entry", {"id": "1", "type": "PER"}),
    ],
)
def test_a_schema_refuses_what_it_should(name: str, broken: dict[str, Any]) -> None:
    assert not validator(name).is_valid(broken)


@pytest.mark.parametrize("name", RAW_SCHEMAS.values())
def test_raw_records_may_hold_other_fields_and_null_for_optional_ones(name: str) -> None:
    schema = load(name)
    optional = set(schema["properties"]) - set(schema["required"])
    record = {**dict.fromkeys(schema["required"], "a"), **dict.fromkeys(optional), "other": {"deep": [None]}}
    validator(name).validate(record)


def test_every_kind_has_its_schema_and_the_enriched_record_names_it() -> None:
    assert set(RAW_SCHEMAS) == set(get_args(Kind))
    assert set(enrichment_schema()["properties"]["kind"]["enum"]) == set(get_args(Kind))


def test_entities_in_code_and_schema_have_the_same_fields() -> None:
    schema = load("enriched")["$defs"]["entity"]
    assert list(schema["properties"]) == [field.name for field in fields(Entity)]
    assert set(schema["required"]) == {field.name for field in fields(Entity)} - {"value", "link"}


def test_enrichments_in_code_and_schema_have_the_same_fields() -> None:
    schema = enrichment_schema()
    assert list(schema["properties"]) == [*(field.name for field in fields(Enrichment)), "source", "enriched_at"]
    assert list(schema["properties"]["source"]["properties"]) == [field.name for field in fields(Origin)]


def test_the_members_that_are_added_are_those_the_schema_adds() -> None:
    assert set(ADDED) == set(load("enriched")["properties"]) - {"text"}


def test_reasons_and_headers_of_dead_letters_are_those_of_the_schema() -> None:
    schema = load("dead-letter")
    assert set(schema["properties"]["koner-reason"]["enum"]) == set(get_args(Reason))
    assert schema["properties"]["koner-detail"]["maxLength"] == MAX_DETAIL_CHARS
    headers = dead_letter_headers("schema", "/text: 7", Origin("reviews.raw", 3, 1182), "2026-03-04T12:00:01Z")
    assert [name for name, _ in headers] == schema["required"]
    validator("dead-letter").validate({name: value.decode() for name, value in headers})


def test_a_long_detail_is_put_on_one_short_line() -> None:
    headers = dict(dead_letter_headers("model_error", "of\nthe model " * 100, Origin("reviews.raw", 0, 0), "now"))
    detail = headers["koner-detail"].decode()
    assert detail.startswith("of the model of")
    assert len(detail) == MAX_DETAIL_CHARS


def enrichment_schema() -> dict[str, Any]:
    schema: dict[str, Any] = load("enriched")["$defs"]["enrichment"]
    return schema
