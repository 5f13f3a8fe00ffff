"""The records that ship with the demo are what its README says they are."""

import json
from datetime import datetime
from importlib.resources import files

import jsonschema_rs
import pytest
from deployment import ROOT

from worker.demo.feed import samples

FOLDER = files("worker.demo") / "samples"


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def test_at_least_five_hundred_records_of_both_kinds_ship() -> None:
    kinds = [sample.kind for sample in samples()]
    assert len(kinds) >= 500
    assert kinds.count("query") >= 100
    assert kinds.count("review") >= 400


def test_the_readme_tells_how_many_there_are() -> None:
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("reviews.jsonl", "queries.jsonl"):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        assert f"| {len(records(name))} |" in row


@pytest.mark.parametrize(
    ("name", "schema"), [("reviews.jsonl", "raw-review.json"), ("queries.jsonl", "raw-query.json")]
)
def test_every_sample_keeps_its_contract(name: str, schema: str) -> None:
    validator = jsonschema_rs.validator_for((ROOT / "schemas" / schema).read_text(encoding="utf-8"))
    for record in records(name):
        validator.validate(record)


def test_identifiers_texts_and_times_are_sound() -> None:
    reviews, queries = records("reviews.jsonl"), records("queries.jsonl")
    assert len({record["review_id"] for record in reviews}) == len(reviews)
    assert len({record["query_id"] for record in queries}) == len(queries)
    assert len({record["text"] for record in queries}) == len(queries)
    for record in reviews + queries:
        assert record["text"].strip()
        assert datetime.fromisoformat(record.get("written_at") or record["searched_at"]).tzinfo is not None


def test_queries_are_spread_among_the_reviews() -> None:
    kinds = [sample.kind for sample in samples()]
    tenth = len(kinds) // 10
    shares = [kinds[start : start + tenth].count("query") / tenth for start in range(0, tenth * 10, tenth)]
    assert min(shares) > 0.2
    assert max(shares) < 0.35


def test_reviews_of_a_film_share_a_key() -> None:
    for sample in samples():
        record = json.loads(sample.value)
        assert sample.key.decode() == record.get("movie_id", record.get("query_id"))
