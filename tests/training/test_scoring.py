"""What `koner evaluate` tells of an engine of rules: which files it reads, and every field of the answer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import POISON, FakeEngine

from worker.ner.engine import Encoded
from worker.records import Entity, Span
from worker.training.labels import FINE
from worker.training.scoring import score

KLUES = {"PER": "PS", "LOC": "LC", "DATE": "DT"}


class KlueEngine(FakeEngine):
    """Tells KLUE's types."""

    def assemble(self, encoded: Encoded, spans: Sequence[Sequence[Span]]) -> list[Entity]:
        found = super().assemble(encoded, spans)
        return [replace(entity, type=KLUES[entity.type]) for entity in found if entity.type in KLUES]


def told(*paths: Path, taxonomy: str = "seed", **options: Any) -> dict[str, Any]:
    engine = KlueEngine() if taxonomy == "klue" else FakeEngine()
    return score(engine, taxonomy, paths, lambda part: None, **options)


def gold(path: Path, *rows: tuple[str, Sequence[tuple[int, int, str]]], key: str = "label") -> Path:
    with path.open("w", encoding="utf-8") as lines:
        for text, spans in rows:
            entities = [{"start": start, "end": end, key: kind} for start, end, kind in spans]
            print(json.dumps({"text": text, "entities": entities}), file=lines)
    return path


def test_exact_spans_by_type_and_what_was_taken_for_what(tmp_path: Path) -> None:
    file = gold(
        tmp_path / "gold.jsonl",
        ("이병헌 기생충", [(0, 3, "PER"), (4, 7, "WORK")]),
        ("송강호", [(0, 3, "ORG")]),
        ("부산역 앞", [(0, 3, "LOC")]),
        ("기생충", [(0, 2, "PER")]),
        ("한국", [(0, 2, "LOC")]),
        key="type",
    )
    scores = told(file, taxonomy="own")
    assert {kind: (of["right"], of["found"], of["true"]) for kind, of in scores["types"].items()} == {
        "LOC": (0, 1, 2),
        "ORG": (0, 0, 1),
        "PER": (1, 2, 2),
        "WORK": (1, 2, 1),
    }
    assert scores["micro"] == {"right": 2, "found": 5, "true": 6, "precision": 2 / 5, "recall": 2 / 6, "f1": 4 / 11}
    assert scores["macro_f1"] == pytest.approx((0 + 0 + 2 / 4 + 2 / 3) / 4)
    assert scores["confusion"] == {
        "LOC": {"boundary": 1, "none": 1},
        "ORG": {"PER": 1},
        "PER": {"PER": 1, "none": 1},
        "WORK": {"WORK": 1},
        "none": {"WORK": 1},
    }
    assert (scores["texts"], scores["failed"], scores["protocol"]) == (5, 0, "spans")


@pytest.mark.parametrize(
    ("taxonomy", "types"),
    [("seed", {"PRODUCT": 1}), ("movies", {"WORK": 1, "QUANTITY": 1}), ("own", {"WORK": 1, "QUANTITY": 1})],
)
def test_labels_are_folded_by_the_taxonomy(tmp_path: Path, taxonomy: str, types: dict[str, int]) -> None:
    file = gold(tmp_path / "gold.jsonl", ("영화 세 편", [(0, 2, "WORK"), (3, 6, "QUANTITY")]))
    assert {kind: of["true"] for kind, of in told(file, taxonomy=taxonomy)["types"].items()} == types


def test_types_are_taken_as_they_are_and_go_before_labels(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    entity = {"start": 0, "end": 2, "type": "GENRE", "label": "no label of ours"}
    file.write_text(json.dumps({"text": "영화", "entities": [entity]}), encoding="utf-8")
    assert list(told(file)["types"]) == ["GENRE"]


def test_a_taxonomy_for_other_labels_scores_types_and_refuses_labels_in_one_line(tmp_path: Path) -> None:
    taxonomy = tmp_path / "own.toml"
    taxonomy.write_text('[types]\nFILM = "film"\n', encoding="utf-8")
    typed = gold(tmp_path / "typed.jsonl", ("영화", [(0, 2, "film")]), key="type")
    assert list(told(typed, taxonomy=str(taxonomy))["types"]) == ["film"]
    with pytest.raises(ValueError, match=r"own\.toml does not fit the labels of .*labelled\.jsonl"):
        told(gold(tmp_path / "labelled.jsonl", ("영화", [(0, 2, "PER")])), taxonomy=str(taxonomy))


def test_a_taxonomy_with_more_labels_than_the_bundled_models_folds_those_too(tmp_path: Path) -> None:
    taxonomy = tmp_path / "own.toml"
    names = [tag[2:] for tag in FINE.tags if tag.startswith("B-")]
    taxonomy.write_text("[types]\n" + "".join(f'{name} = "{name}"\n' for name in [*names, "GENRE"]), encoding="utf-8")
    file = gold(tmp_path / "gold.jsonl", ("송강호 멜로", [(0, 3, "PER"), (4, 6, "GENRE")]))
    assert set(told(file, taxonomy=str(taxonomy))["types"]) >= {"PER", "GENRE"}


def test_files_are_scored_together_and_texts_without_entities_counted(tmp_path: Path) -> None:
    files = [
        gold(tmp_path / "one.jsonl", ("이병헌 부산", []), ("좋아요", []), ("송강호", [(0, 3, "PER")])),
        gold(tmp_path / "two.jsonl", ("세 편", [(0, 3, "QUANTITY")]), ("부산", [(0, 2, "LOC")])),
    ]
    scores = told(*files)
    assert (scores["texts"], scores["empty_texts"], scores["false_spans_in_empty_texts"]) == (5, 3, 2)
    assert (scores["micro"]["right"], scores["micro"]["found"], scores["micro"]["true"]) == (2, 4, 2)
    assert scores["confusion"]["none"] == {"LOC": 1, "PER": 1}


def test_texts_that_fail_are_counted_and_their_spans_missed(tmp_path: Path) -> None:
    scores = told(gold(tmp_path / "gold.jsonl", (f"{POISON} 부산", [(3, 5, "LOC")]), ("부산", [(0, 2, "LOC")])))
    assert (scores["failed"], scores["types"]["LOC"]["right"], scores["types"]["LOC"]["true"]) == (1, 1, 2)


def test_only_texts_with_mistakes_are_written(tmp_path: Path) -> None:
    file = gold(tmp_path / "gold.jsonl", ("이병헌", [(0, 3, "PER")]), ("기생충 부산", [(0, 3, "PER"), (4, 6, "LOC")]))
    errors = tmp_path / "errors.jsonl"
    told(file, taxonomy="own", errors=errors)
    assert [json.loads(line) for line in errors.read_text("utf-8").splitlines()] == [
        {
            "text": "기생충 부산",
            "missed": [{"start": 0, "end": 3, "text": "기생충", "type": "PER"}],
            "wrong": [{"start": 0, "end": 3, "text": "기생충", "type": "WORK"}],
        }
    ]


def test_klues_protocol_reads_klues_spans_even_beside_entities(tmp_path: Path) -> None:
    file = tmp_path / "dev.jsonl"
    row = {"id": "1", "text": "이 병헌 부산", "klue": [[0, 4, "PS"], [5, 7, "LC"]], "entities": []}
    file.write_text(json.dumps(row), encoding="utf-8")
    scores = told(file, taxonomy="klue", protocol="klue")["klue"]
    assert {kind: (of["right"], of["true"]) for kind, of in scores["entities"].items()} == {"LC": (1, 1), "PS": (0, 1)}
    assert {tag: (of["right"], of["found"], of["true"]) for tag, of in scores["characters"].items()} == {
        "O": (0, 3, 0),
        "B-PS": (0, 0, 1),
        "I-PS": (0, 0, 2),
        "B-LC": (1, 1, 1),
        "I-LC": (1, 1, 1),
    }
    assert scores["entity_macro_f1"] == 0.5
    assert scores["character_macro_f1"] == pytest.approx((0 + 0 + 0 + 1 + 1 + 8) / 13)


def test_the_taxonomy_klue_takes_its_own_types_and_no_others(tmp_path: Path) -> None:
    file = gold(tmp_path / "gold.jsonl", ("부산", [(0, 2, "LC")]))
    assert told(file, taxonomy="klue")["klue"]["entity_macro_f1"] == 1
    with pytest.raises(ValueError, match="its types are not KLUE's own"):
        told(gold(file, ("부산", [(0, 2, "LOC")]), key="type"), taxonomy="klue")


@pytest.mark.parametrize("span", [[0, 9, "PS"], [1, 1, "PS"], [0, 1, "PER"]])
def test_klues_protocol_refuses_spans_that_are_not_klues(tmp_path: Path, span: list[Any]) -> None:
    file = tmp_path / "dev.jsonl"
    file.write_text(json.dumps({"text": "부산", "klue": [span]}), encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: not of a KLUE development file"):
        told(file, taxonomy="klue", protocol="klue")


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    file.write_bytes(b'{"text": "", "entities": []}\n{"text": "\xff", "entities": []}\n')
    with pytest.raises(ValueError, match=r"gold\.jsonl, line 2: not UTF-8"):
        told(file)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "가", "entities": [{"start": 0, "end": 1, "label": "FILM"}]}', "line 1: needs text"),
        (
            '{"text": "가", "entities": []}\n\n{"text": "가", "entities": [{"start": 0.0, "end": 1}]}',
            "line 3: needs text",
        ),
        ('{"text": "가", "entities": [{"start": 0, "end": 1, "type": 3}]}', "line 1: needs text"),
        ('{"text": "가", "entities": [7]}', "line 1: needs text"),
        ('{"text": "가", "entities": []}\n{"entities": []}', "line 2: needs text"),
        ('{"text": "가", "fine": [[0, 1, "PS_NAME"]]}', "line 1: not of a KLUE development file"),
        ('{"fine_text": "가", "fine": [[0, 2, "PS_NAME"]]}', "line 1: not of a KLUE development file"),
        ('{"fine_text": "가", "fine": []}\n{"text": "가", "klue": []}', "line 2: not of a KLUE development file"),
    ],
)
def test_a_line_that_does_not_fit_is_named_without_its_text(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "gold.jsonl"
    file.write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        told(file)
    assert "가" not in str(raised.value)
