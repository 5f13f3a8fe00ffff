"""Synthetic search queries: names, titles, places and amounts put together as people type them."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from typing import Final

from worker.training import amounts
from worker.training.corpora import Sentence
from worker.training.labels import LabelledSpan
from worker.training.projection import Forms

# Slots in capitals are entities; the others are drawn from `words` and stay unmarked. The number is a weight.
_TEMPLATES: Final[tuple[tuple[int, str], ...]] = (
    (8, "PER WORK"),
    (5, "WORK PER"),
    (3, "PER PER WORK"),
    (3, "PER PER"),
    (5, "PER genre"),
    (5, "PER person_tail"),
    (4, "PER"),
    (3, "PER thing tail"),
    (2, "PER +나오는 thing"),
    (2, "PER +감독 WORK"),
    (2, "PER +주연 genre"),
    (2, "PER DATE thing"),
    (2, "PER LOC thing"),
    (2, "PER theme thing"),
    (8, "WORK"),
    (8, "WORK tail"),
    (3, "WORK tail tail"),
    (3, "WORK WORK"),
    (2, "WORK genre"),
    (2, "WORK +같은 thing"),
    (2, "WORK QUANTITY tail"),
    (2, "WORK DATE"),
    (3, "WORK LOC TIME"),
    (5, "ORG WORK"),
    (3, "WORK ORG"),
    (4, "ORG genre tail"),
    (3, "ORG thing tail"),
    (3, "ORG LOC tail"),
    (3, "LOC ORG TIME"),
    (2, "ORG tail"),
    (2, "ORG"),
    (3, "DATE LOC genre"),
    (3, "DATE genre tail"),
    (3, "DATE thing tail"),
    (2, "DATE +개봉 thing"),
    (4, "LOC genre"),
    (3, "LOC thing"),
    (3, "LOC genre tail"),
    (3, "LOC TIME tail"),
    (2, "LOC DATE TIME tail"),
    (2, "DATE TIME WORK"),
    (2, "TIME tail"),
    (3, "EVENT +수상작"),
    (2, "EVENT thing tail"),
    (2, "EVENT thing"),
    (2, "DATE EVENT tail"),
    (2, "EVENT PER"),
    (2, "QUANTITY +이상 thing"),
    (2, "QUANTITY +관람가 genre"),
    (1, "QUANTITY thing tail"),
    (1, "TIME limit thing"),
    (5, "MONEY limit goods"),
    (3, "goods MONEY limit"),
    (2, "ORG goods MONEY limit"),
    (2, "MONEY goods tail"),
    (1, "MONEY"),
    (4, "PRODUCT goods_tail"),
    (3, "PRODUCT"),
    (3, "ORG PRODUCT"),
    (2, "ORG PRODUCT goods_tail"),
    (2, "PRODUCT MONEY limit"),
    (2, "PRODUCT DATE"),
    (4, "ORG goods"),
    (3, "ORG goods goods_tail"),
    (2, "PERCENT +할인 goods"),
    (2, "ORG PERCENT +할인"),
    (2, "goods PERCENT goods_tail"),
    (2, "QUANTITY goods"),
    (3, "goods goods_tail"),
    (2, "goods"),
    (4, "genre tail"),
    (3, "theme genre tail"),
    (3, "theme thing tail"),
    (2, "genre"),
    (2, "genre thing"),
    (1, "thing tail"),
    (1, "tail"),
)
_PARTICLES: Final = {True: ("이", "은", "을", "의", "이랑", "과"), False: ("가", "는", "를", "의", "랑", "와")}
_AMOUNTS: Final[Mapping[str, Callable[[Random], str]]] = {
    "DATE": amounts.date,
    "TIME": amounts.time,
    "MONEY": amounts.money,
    "PERCENT": amounts.percent,
    "QUANTITY": amounts.quantity,
}
_NAMED: Final = ("PER", "WORK", "ORG", "LOC", "EVENT", "PRODUCT")
_SURNAMES: Final = "김이박최정강조윤장임한오서신권황안송전홍유고문양손배백허남심노하곽성차주우구민진지엄채원천방공현"
_KOREAN_NAME: Final = re.compile(f"[{_SURNAMES}][가-힣]{{2}}")
_BY_HAND: Final = 0.6  # how often a name comes from the list by hand rather than from the corpora
_RUN_TOGETHER: Final = 0.03  # how often a query has no space at all, not even between or inside names
_INVENTED: Final = 0.2  # how often a person is a made-up Korean name


@dataclass(frozen=True, slots=True)
class QueryWords:
    """Entities by label, from the corpora and by hand, and unmarked words by slot."""

    from_corpora: Mapping[str, Sequence[str]]
    by_hand: Mapping[str, Sequence[str]]
    words: Mapping[str, Sequence[str]]
    syllables: str  # of given names, as often as they occur


def gather_words(forms: Forms, tagged: Iterable[Sentence], titles: Set[str]) -> QueryWords:
    """Names out of the projected forms that mostly carry one label, and out of other tagged sentences.

    Of the works in those, only `titles` count.
    """
    by_hand, words = read_words()
    unmarked = {word for known in words.values() for word in known}
    names: dict[str, set[str]] = {label: set() for label in _NAMED}
    for form, labels in forms.counts.items():
        best = max(labels, key=lambda label: labels[label])
        if best in names and forms.share(form, best) >= 0.6 and 2 <= len(form) <= 14 and form not in unmarked:
            names[best].add(form)
    for sentence in tagged:
        for span in sentence.fine or ():
            form = sentence.text[span.start : span.end]
            wanted = span.label in ("PER", "ORG") or (span.label == "WORK" and form in titles)
            if wanted and 2 <= len(form) <= 14 and form not in unmarked:
                names[span.label].add(form)
    korean = [name for name in sorted(names["PER"]) if _KOREAN_NAME.fullmatch(name)]
    return QueryWords(
        from_corpora={label: sorted(found) for label, found in names.items()},
        by_hand=by_hand,
        words=words,
        syllables="".join(name[1:] for name in korean),
    )


def read_words() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The names by label and the unmarked words by slot: those of `query_words.toml` and of `words/NAME.txt`."""
    room = files("worker.training")
    table = tomllib.loads((room / "query_words.toml").read_text("utf-8"))
    entities, words = table["entities"], table["words"]
    for known in (entities, words):
        for name in known:
            more = room / "words" / f"{name}.txt"
            lines = more.read_text("utf-8").splitlines() if more.is_file() else []
            known[name] = list(dict.fromkeys([*known[name], *lines]))
    return entities, words


def make_queries(words: QueryWords, count: int, random: Random) -> list[Sentence]:
    """`count` queries with fine spans and no KLUE layer."""
    weights = [weight for weight, _ in _TEMPLATES]
    drawn = random.choices([template for _, template in _TEMPLATES], weights, k=count)
    return [_query(template.split(), words, random) for template in drawn]


def _query(slots: list[str], words: QueryWords, random: Random) -> Sentence:
    if random.random() < 0.15 and not any(slot.startswith("+") or slot == "limit" for slot in slots):
        random.shuffle(slots)
    joined = random.random() < 0.1
    run_together = random.random() < _RUN_TOGETHER
    text = ""
    spans: list[LabelledSpan] = []
    for slot in slots:
        label = slot if slot.isupper() else None
        value = _value(slot, words, random)
        if run_together:
            value = value.replace(" ", "")
        glued = (joined and random.random() < 0.7) or (slot == "limit" and random.random() < 0.4)
        # Two names without a space between them leave no sign of where one ends: only queries run together have them.
        if text and not run_together and not (glued and not (label and spans and spans[-1].end == len(text))):
            text += " "
        if label:
            spans.append(LabelledSpan(len(text), len(text) + len(value), label))
        text += value
        if label in _NAMED and random.random() < 0.08:
            text += random.choice(_PARTICLES[ends_closed(value)])
    return Sentence(text, tuple(spans), None)


def _value(slot: str, words: QueryWords, random: Random) -> str:
    if slot.startswith("+"):
        return slot[1:]
    return draw_entity(slot, words, random) if slot.isupper() else random.choice(words.words[slot])


def draw_entity(label: str, words: QueryWords, random: Random) -> str:
    """A name or an amount of the label: from the corpora, from the lists by hand, or made up."""
    if label in _AMOUNTS:
        return _AMOUNTS[label](random)
    if label == "PER" and words.syllables and random.random() < _INVENTED:
        return random.choice(_SURNAMES) + random.choice(words.syllables) + random.choice(words.syllables)
    found = words.from_corpora.get(label, ())
    if not found or random.random() < _BY_HAND:
        return random.choice(words.by_hand[label])
    return random.choice(found)


def ends_closed(word: str) -> bool:
    """Whether the word ends in a syllable with a final consonant."""
    return "가" <= word[-1] <= "힣" and (ord(word[-1]) - ord("가")) % 28 > 0
