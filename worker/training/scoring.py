"""Scores of an engine on a file of texts with gold spans: what `koner evaluate` tells. Needs no torch."""

import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from worker.ner.annotate import annotate
from worker.ner.engine import Engine
from worker.ner.errors import EngineError, ModelError
from worker.ner.taxonomy import OWN, SHIPPED, load_taxonomy, read_taxonomy
from worker.training.corpora import gold_of
from worker.training.evaluation import Score, confusion, evaluate, evaluate_klue
from worker.training.labels import KLUE, LAYERS, LabelledSpan

SPANS: Final = "spans"
KLUE_TAXONOMY: Final = "klue"  # and the protocol
Gold = list[tuple[str, list[LabelledSpan]]]


def score(
    engine: Engine,
    taxonomy: str,
    paths: Sequence[Path],
    progress: Callable[[float], None],
    *,
    protocol: str = SPANS,
    errors: Path | None = None,
) -> dict[str, Any]:
    """Score what the engine finds in the files' texts, all files together.

    The files hold JSON lines: with `text` and `entities` (`start`, `end`, and `type`, or `label` of the bundled model's
    eleven, which the taxonomy folds); or are KLUE development files, with `fine` spans over `fine_text`, or `klue`
    spans over `text` for the taxonomy `klue`. The protocol `spans` gives exact matches by type and what was taken for
    what; `klue` gives KLUE's own two figures as well, by type and by tag, and needs that taxonomy. Texts with a mistake
    go to the file `errors`, if given. `progress` gets the part of the texts that is done. Raises ValueError for a file
    that doesn't fit, and OSError.
    """
    gold = [row for path in paths for row in _read(path, taxonomy, protocol)]
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
    empty = [found for found, (_, true) in zip(predicted, gold, strict=True) if not true]
    told: dict[str, Any] = {
        **asdict(engine.info),
        "protocol": protocol,
        "texts": len(gold),
        "failed": failed,
        "micro": _figures(scores.micro),
        "macro_f1": scores.macro_f1,
        "types": {kind: _figures(of) for kind, of in scores.by_type.items()},
        "confusion": confusion(predicted, [true for _, true in gold]),
        "empty_texts": len(empty),
        "false_spans_in_empty_texts": sum(map(len, empty)),
    }
    if taxonomy == KLUE_TAXONOMY:
        klue = evaluate_klue(lambda _: predicted, gold)
        told["klue"] = {
            "entity_macro_f1": klue.entity_macro_f1,
            "character_macro_f1": klue.character_macro_f1,
            "entities": {kind: _figures(of) for kind, of in klue.entities.by_type.items()},
            "characters": {tag: _figures(of) for tag, of in klue.characters.items()},
        }
    if errors:
        _write_mistakes(errors, gold, predicted)
    return told


def _write_mistakes(path: Path, gold: Gold, predicted: Sequence[Sequence[LabelledSpan]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogatepass") as lines:
        for (text, true), found in zip(gold, predicted, strict=True):
            missed, wrong = set(true) - set(found), set(found) - set(true)
            if missed or wrong:
                row = {"text": text, "missed": _shown(text, missed), "wrong": _shown(text, wrong)}
                print(json.dumps(row, ensure_ascii=False), file=lines)


def _shown(text: str, spans: Iterable[LabelledSpan]) -> list[dict[str, Any]]:
    return [
        {"start": span.start, "end": span.end, "text": text[span.start : span.end], "type": span.label}
        for span in sorted(spans)
    ]


def _figures(of: Score) -> dict[str, float]:
    return {**asdict(of), "precision": of.precision, "recall": of.recall, "f1": of.f1}


def _read(path: Path, taxonomy: str, protocol: str) -> Gold:
    rows = list(_rows(path))
    if not rows:
        raise ValueError(f"{path}: no texts in it")
    _, first = rows[0]
    if protocol == KLUE_TAXONOMY and "klue" not in first:
        raise ValueError(f"{path}: its lines hold no klue spans, which KLUE's protocol scores")
    if "entities" in first and protocol != KLUE_TAXONOMY:
        labelled = any("type" not in one for _, row in rows for one in _entities(row))
        fold = _fold(taxonomy, path) if labelled else {}
        typed = [_typed(row, f"{path}, line {number}", fold) for number, row in rows]
        if taxonomy == KLUE_TAXONOMY and not all(
            f"B-{span.label}" in KLUE.tags for _, spans in typed for span in spans
        ):
            raise ValueError(f"{path}: its types are not KLUE's own, which the taxonomy klue gives")
        return typed
    layer = "klue" if taxonomy == KLUE_TAXONOMY else "fine"
    if layer not in first:
        raise ValueError(f"{path}: its lines hold neither entities nor {layer}; see `koner evaluate --help`")
    fold = _fold(taxonomy, path)
    gold: Gold = []
    for number, row in rows:
        try:
            text, spans = gold_of(row, layer)
            kinds = [fold[span.label] for span in spans]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}, line {number}: not of a KLUE development file, with {layer} spans of its labels in the text"
            ) from None
        folded = zip(spans, kinds, strict=True)
        gold.append((text, [LabelledSpan(span.start, span.end, kind) for span, kind in folded if kind]))
    return gold


def _fold(taxonomy: str, path: Path) -> Mapping[str, str | None]:
    """How the taxonomy folds the labels of a file. Raises ValueError for one that lacks some of the bundled model's.

    A taxonomy file may name more: those of a model that was trained further.
    """
    labels = {layer.name: tuple(dict.fromkeys(tag[2:] for tag in layer.tags[1:])) for layer in LAYERS}
    if taxonomy == OWN:
        return {label: label for label in labels["fine"]}
    try:
        if taxonomy not in SHIPPED and Path(taxonomy).is_file():
            fold = read_taxonomy(Path(taxonomy)).fold
            labels["fine"] += tuple(label for label in fold if label not in labels["fine"])
        return load_taxonomy(taxonomy, labels, str(path)).fold
    except ModelError as error:
        raise ValueError(str(error)) from None


def _entities(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    entities = row.get("entities")
    return [one for one in entities if isinstance(one, dict)] if isinstance(entities, list) else []


def _typed(row: Mapping[str, Any], place: str, fold: Mapping[str, str | None]) -> tuple[str, list[LabelledSpan]]:
    """A line's text and spans: a span's `type` as it is, or else its `label` as the taxonomy folds it."""
    try:
        text = row["text"]
        if not isinstance(text, str):
            raise TypeError
        spans = []
        for one in row["entities"]:
            start, end = operator.index(one["start"]), operator.index(one["end"])
            kind = one["type"] if "type" in one else fold[one["label"]]
            if not 0 <= start < end <= len(text) or not isinstance(kind, str | None):
                raise ValueError
            if kind:
                spans.append(LabelledSpan(start, end, kind))
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{place}: needs text, and entities with start, end and type (or a label of the taxonomy's) within it"
        ) from None
    return text, spans


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The lines that aren't blank, with their numbers from 1."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"{path}, line {number}: not UTF-8") from None
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError:
                raise ValueError(f"{path}, line {number}: not JSON") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object")
            yield number, row
