"""A data folder of made-up sentences, with the files and shapes of the real one."""

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path

from worker.ner.layers import LabelLayer
from worker.training.labels import LabelledSpan

PEOPLE = ("이병헌", "송강호", "전지현", "하정우", "김혜수")
PLACES = ("서울", "부산", "제주", "강릉")
WORKS = ("박열", "괴물", "도둑들", "써니")


def _sentence(number: int) -> tuple[str, list[list], list[list]]:
    """A text, its KLUE spans and its fine spans."""
    person, place = PEOPLE[number % len(PEOPLE)], PLACES[number % len(PLACES)]
    work, year = WORKS[number % len(WORKS)], f"{2000 + number % 20}년"
    text = f"{year} {place}에서 {person}의 {work}을 봤다"
    at = {form: text.index(form) for form in (person, place, work, year)}

    def span(form: str, label: str) -> list:
        return [at[form], at[form] + len(form), label]

    klue = [span(year, "DT"), span(place, "LC"), span(person, "PS")]
    fine = [span(year, "DT_YEAR"), span(place, "LCP_CITY"), span(person, "PS_NAME"), span(work, "AFA_VIDEO")]
    return text, klue, fine


def write_data_folder(folder: Path, sentences: int = 40) -> Path:
    """Fill `folder` (made if need be) with every file that a recipe reads; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[tuple[str, str], int] = {}
    with (folder / "klue_ner_train.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(sentences):
            text, klue, fine = _sentence(number)
            print(json.dumps({"id": f"t{number}", "text": text, "klue": klue}, ensure_ascii=False), file=lines)
            for start, end, label in fine:
                counts[text[start:end], label] = counts.get((text[start:end], label), 0) + 1
    for name in ("klue_ner_dev_a.jsonl", "klue_ner_dev_b.jsonl"):
        with (folder / name).open("w", encoding="utf-8") as lines:
            for number in range(12):
                text, klue, fine = _sentence(number + 3)
                row = {"id": f"d{number}", "text": text, "klue": klue, "fine_text": text, "fine": fine}
                print(json.dumps(row, ensure_ascii=False), file=lines)
    forms = "".join(f"{form}\t{label}\t{count}\n" for (form, label), count in counts.items())
    (folder / "fine_forms_train.tsv").write_text(forms, "utf-8")
    (folder / "multiconer_ko_train.conll").write_text(
        "# id 1\tdomain=train\n《 _ _ O\n옥자 _ _ B-CW\n》 _ _ O\n감독 _ _ O\n봉준호가 _ _ B-PER\n\n", "utf-8"
    )
    plain = random.Random(0).choices(("정말 재밌다", "좋은 영화", "지루하고 재미없다 ㅋㅋ", "또 보고싶다"), k=20)
    with gzip.open(folder / "reviews.jsonl.gz", "wt", encoding="utf-8") as lines:
        for number, text in enumerate(plain):
            print(json.dumps({"review_id": str(number), "text": text}, ensure_ascii=False), file=lines)
    (folder / "utterances.txt").write_text("불 좀 켜줘\n문 좀 닫아줘\n", "utf-8")
    return folder


def spans_of(layer: LabelLayer, tags: Iterable[int]) -> list[LabelledSpan]:
    """The spans of a tag index per character; an `I-` that continues nothing of its label begins a span."""
    spans: list[LabelledSpan] = []
    start, label = 0, ""
    for place, tag in enumerate([*tags, 0]):
        prefix, _, name = layer.tags[max(int(tag), 0)].partition("-")
        if label and (prefix != "I" or name != label):
            spans.append(LabelledSpan(start, place, label))
            label = ""
        if prefix != "O" and not label:
            start, label = place, name
    return spans
