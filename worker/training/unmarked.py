"""Text that holds no entity, so that plain nouns stay plain; and what MultiCoNER's tags can't be trusted with."""

import re
from collections.abc import Sequence
from random import Random
from typing import Final

from worker.training.corpora import Sentence
from worker.training.examples import Example, example_of
from worker.training.labels import LabelledSpan
from worker.training.projection import NOTHING, Forms, begins_word, project

_SUSPECT: Final = re.compile(r"[0-9A-Za-z'\"‘’“”<>《》「」]|감독|주연|배우|출연|연기자|[가-힣]씨|[가-힣]{2}님|오빠|누나|언니|시리즈")
_KNOWN_SHARE: Final = 0.1
_CLOSED_LABELS: Final = ("DATE", "TIME", "MONEY", "PERCENT", "EVENT", "QUANTITY")


def without_entities(texts: Sequence[str], forms: Forms, names: Sequence[str], count: int, random: Random) -> list[Sentence]:
    """`count` of the texts, or as many as there are, in which nothing known as an entity begins a word.

    `names` may not occur anywhere. A text with a digit, a Latin letter, a quotation or a word that goes with names
    (감독, 씨) is left out too, since the unknown names are there.
    """
    anywhere = re.compile("|".join(re.escape(name) for name in sorted(names) if len(name) > 1))
    found: list[Sentence] = []
    for text in random.sample(texts, len(texts)):
        if len(found) == count:
            break
        if 2 <= len(text) <= 120 and not _SUSPECT.search(text) and not anywhere.search(text) and not _known(text, forms):
            found.append(Sentence(text, (), None))
    return found


def multiconer_example(sentence: Sentence, forms: Forms) -> Example:
    """A MultiCoNER sentence in the fine layer, with doubtful characters left out of the loss.

    Its products are mostly plain nouns, so only those with a digit or a Latin letter count. Dates and amounts, which it
    doesn't tag, come from the projected forms; other known entities that it left untagged, and words with digits, are
    left out of the loss.
    """
    text = sentence.text
    kept, masked = [], []
    for span in sentence.fine or ():
        form = text[span.start : span.end]
        plain_product = span.label == "PRODUCT" and not re.search(r"[0-9a-z]", form)
        often_plain = forms.occurrences.get(form, 0) >= 3 and forms.share(form, span.label) < 0.3
        (masked if plain_product or often_plain else kept).append(span)
    taken = [*kept, *masked]
    for span in project(text, forms):
        if all(span.end <= other.start or other.end <= span.start for other in taken):
            (kept if span.label in _CLOSED_LABELS else masked).append(span)
            taken.append(span)
    for word in re.finditer(r"\S*[0-9]\S*", text):
        if all(word.end() <= other.start or other.end <= word.start() for other in taken):
            masked.append(LabelledSpan(word.start(), word.end(), ""))
    return example_of(Sentence(text, tuple(sorted(kept)), None), masked)


def _known(text: str, forms: Forms) -> bool:
    for at in range(len(text)):
        if not begins_word(text, at):
            continue
        for length in range(min(forms.longest, len(text) - at), 1, -1):
            labels = forms.counts.get(text[at : at + length])
            if labels is None:
                continue
            marked = sum(count for label, count in labels.items() if label != NOTHING)
            if marked / max(forms.occurrences.get(text[at : at + length], 0), 1) >= _KNOWN_SHARE:
                return True
    return False
