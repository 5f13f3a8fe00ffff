"""How well names are found that stand somewhere in the training data, and names that stand nowhere in it.

`python benchmarks/known_names.py --data FOLDER queries_report.jsonl` (FOLDER as for `koner train`)

A name counts as known where the same letters, spaces and case aside, are a name in the word lists of the synthetic
queries, among the texts marked by hand, the fine labels' forms, or MultiCoNER's spans. Prints JSON: recall of known and
unknown names by label, and F1 over all texts with the unknown works left out of the gold spans and, where they were
found, of the found ones.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from worker.ner.annotate import annotate
from worker.ner.errors import EngineError
from worker.ner.loading import load_engine
from worker.training.corpora import read_multiconer
from worker.training.projection import read_forms
from worker.training.queries import read_words

BY_HAND = Path(__file__).parents[1] / "recipes" / "by_hand"
NAMES = ("PER", "LOC", "ORG", "EVENT", "PRODUCT", "WORK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="bundled")
    arguments = parser.parse_args()
    known = known_names(arguments.data)
    engine = load_engine(arguments.model, taxonomy="movies", engine="onnxruntime")
    for path in arguments.sets:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        print(json.dumps({"set": path.stem, **compare(engine, rows, known)}))


def known_names(data: Path) -> set[str]:
    """Every name that training has seen marked, spaces and case aside."""
    entities, _ = read_words()
    names = {name for found in entities.values() for name in found}
    names |= set(read_forms(data / "fine_forms_train.tsv"))
    for sentence in read_multiconer(data / "multiconer_ko_train.conll"):
        names |= {sentence.text[span.start : span.end] for span in sentence.fine or ()}
    for path in BY_HAND.glob("*.jsonl"):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            names |= {row["text"][one["start"] : one["end"]] for one in row["entities"]}
    return {bare(name) for name in names}


def compare(engine, rows: list[dict], known: set[str]) -> dict:
    """Recall by label and by whether a name is known, and F1 without the works that are not."""
    true_of, right_of = Counter(), Counter()
    right = found_count = true_count = 0
    for row, found in zip(rows, annotate(engine, [row["text"] for row in rows]), strict=True):
        found = set() if isinstance(found, EngineError) else {(one.start, one.end, one.type) for one in found}
        true = {(one["start"], one["end"], one["label"]) for one in row["entities"]}
        strange = set()
        for start, end, label in true:
            if label in NAMES:
                kind = label, bare(row["text"][start:end]) in known
                true_of[kind] += 1
                right_of[kind] += (start, end, label) in found
                if kind == ("WORK", False):
                    strange.add((start, end, label))
        right += len((true & found) - strange)
        found_count += len(found - strange)
        true_count += len(true - strange)
    return {
        "f1_without_unknown_works": round(2 * right / (found_count + true_count), 4),
        "recall": {
            label: {
                "known": [right_of[label, True], true_of[label, True]],
                "unknown": [right_of[label, False], true_of[label, False]],
            }
            for label in NAMES
        },
    }


def bare(name: str) -> str:
    return name.replace(" ", "").casefold()


if __name__ == "__main__":
    main()
