"""Scores of an engine on a file of texts with gold spans: what `koner evaluate` tells. Needs no torch."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final

from worker.ner.annotate import annotate
from worker.ner.engine import Engine
from worker.ner.errors import EngineError
from worker.ner.taxonomy import OWN, load_taxonomy
from worker.training.corpora import read_gold
from worker.training.evaluation import Score, evaluate, evaluate_klue
from worker.training.labels import LAYERS, LabelledSpan

KLUE_TAXONOMY: Final = "klue"
Gold = list[tuple[str, list[LabelledSpan]]]


def score(engine: Engine, taxonomy: str, path: Path, progress: Callable[[float], None]) -> dict[str, Any]:
    """Exact-match scores of the taxonomy's types on `path`, and with the taxonomy `klue` also KLUE's own two figures.

    The file holds JSON lines: with `text` and `entities` (`start`, `end`, `type`), as `koner annotate` writes them; or
    a KLUE development file, with `fine` spans over `fine_text`, or `klue` spans over `text` for the taxonomy `klue`.
    `progress` gets the part of the texts that is done. Raises ValueError for a file that holds neither, and OSError.
    """
    gold = _read(path, taxonomy)
    failed = 0

    def predict(texts: Sequence[str]) -> list[list[LabelledSpan]]:
        nonlocal failed
        found: list[list[LabelledSpan]] = []
        for result in annotate(engine, texts):
            if isinstance(result, EngineError):
                failed += 1
                result = []
            found.append([LabelledSpan(entity.start, entity.end, entity.type) for entity in result])
            progress(len(found) / len(texts))
        return found

    predicted = predict([text for text, _ in gold])
    scores = evaluate(lambda _: predicted, gold)
    told: dict[str, Any] = {
        **asdict(engine.info),
        "texts": len(gold),
        "failed": failed,
        "micro": _figures(scores.micro),
        "macro_f1": scores.macro_f1,
        "types": {kind: _figures(of) for kind, of in scores.by_type.items()},
    }
    if taxonomy == KLUE_TAXONOMY:
        klue = evaluate_klue(lambda _: predicted, gold)
        told["klue"] = {
            "entity_macro_f1": klue.entity_macro_f1,
            "character_macro_f1": klue.character_macro_f1,
        }
    return told


def _figures(of: Score) -> dict[str, float]:
    return {**asdict(of), "precision": of.precision, "recall": of.recall, "f1": of.f1}


def _read(path: Path, taxonomy: str) -> Gold:
    first = next(islice(_rows(path), 1), None)
    if first is None:
        raise ValueError(f"{path}: no texts in it")
    if "entities" in first:
        return [_typed(row, f"{path}, line {number}") for number, row in enumerate(_rows(path), 1)]
    layer = "klue" if taxonomy == KLUE_TAXONOMY else "fine"
    if layer not in first:
        raise ValueError(f"{path}: its lines hold neither entities nor {layer}; see `koner evaluate --help`")
    fold = _fold(taxonomy)
    return [
        (text, [LabelledSpan(span.start, span.end, kind) for span in spans if (kind := fold.get(span.label))])
        for text, spans in read_gold(path, layer)
    ]


def _fold(taxonomy: str) -> Mapping[str, str | None]:
    labels = {layer.name: tuple(dict.fromkeys(tag[2:] for tag in layer.tags[1:])) for layer in LAYERS}
    if taxonomy == OWN:
        return {label: label for label in labels["fine"]}
    return load_taxonomy(taxonomy, labels, "the file").fold


def _typed(row: Mapping[str, Any], place: str) -> tuple[str, list[LabelledSpan]]:
    try:
        text = row["text"]
        spans = [LabelledSpan(one["start"], one["end"], one["type"]) for one in row["entities"]]
        if not isinstance(text, str) or any(not 0 <= span.start < span.end <= len(text) for span in spans):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{place}: needs text, and entities with start, end and type within it") from None
    return text, spans


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise ValueError(f"{path}, line {number}: not JSON") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object")
            yield row
