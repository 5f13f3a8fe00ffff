"""Text that holds no entity, so that plain nouns stay plain; and what MultiCoNER's tags can't be trusted with."""

import re
from collections import Counter
from collections.abc import Sequence, Set
from random import Random
from typing import Final

from worker.training.corpora import Sentence
from worker.training.examples import Example, example_of
from worker.training.labels import LabelledSpan
from worker.training.projection import NOTHING, Forms, begins_word, project

_SUSPECT: Final = re.compile(
    r"[0-9A-Za-z'\"‘’“”<>《》「」]|감독|주연|배우|출연|연기자|[가-힣]씨|[가-힣]{2}님|오빠|누나|언니|시리즈"
    r"|[일이삼사오육칠팔구십]월|요일|[한두세네]\s?시|시간|달러|만원|점심|저녁|아침|오늘|내일|주말"
)
_KNOWN_SHARE: Final = 0.1
_RARE: Final = 4  # a word seen less often may be a name that no list knows
_TITLE: Final = re.compile(r"[《〈「]\s*(.+?)\s*[》〉」]")


def without_entities(
    texts: Sequence[str], forms: Forms, names: Sequence[str], count: int, random: Random
) -> list[Sentence]:
    """`count` of the texts, or as many as there are, in which nothing known as an entity begins a word.

    `names` may not occur anywhere. A text with a digit, a Latin letter, a quotation or a word that goes with names
    (감독, 씨) is left out too, since the unknown names are there.
    """
    anywhere = re.compile("|".join(re.escape(name) for name in sorted(names) if len(name) > 1))
    found: list[Sentence] = []
    for text in random.sample(texts, len(texts)):
        if len(found) == count:
            break
        if not 2 <= len(text) <= 120 or _SUSPECT.search(text) or anywhere.search(text):
            continue
        if not _known(text, forms):
            found.append(Sentence(text, (), None))
    return found


def unmarked_example(sentence: Sentence, words: Counter[str]) -> Example:
    """A text without known entities, all `O`; its rare words, which may be names, are left out of the loss."""
    rare = [
        LabelledSpan(found.start(), found.end(), "")
        for found in re.finditer(r"\S+", sentence.text)
        if words[bare(found.group())] < _RARE
    ]
    return example_of(sentence, rare)


def count_words(texts: Sequence[str]) -> Counter[str]:
    """How often each word stands in the texts, without the signs around it."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(bare(word) for word in text.split())
    return counts


def bare(word: str) -> str:
    """The word without the punctuation and the lone jamo around it; ㅋㅋ alone is the empty string."""
    return word.strip(".,!?~^;:-_*♥♡… ㅋㅎㅠㅜㅡ")


def titles_of(sentences: Sequence[Sentence]) -> set[str]:
    """What stands in title brackets somewhere: MultiCoNER's other creative works are mostly kinds of things."""
    return {found.group(1) for sentence in sentences for found in _TITLE.finditer(sentence.text)}


def multiconer_example(sentence: Sentence, forms: Forms, titles: Set[str]) -> Example:
    """A MultiCoNER sentence in the fine layer, with doubtful characters left out of the loss.

    Products count only with a digit or a Latin letter, and works only where they stand in brackets somewhere, since the
    others are mostly plain nouns. Dates, amounts and known entities that it left untagged are left out of the loss.
    """
    text = sentence.text
    kept: list[LabelledSpan] = []
    masked: list[LabelledSpan] = []
    for span in sentence.fine or ():
        form = text[span.start : span.end]
        plain_product = span.label == "PRODUCT" and not re.search(r"[0-9a-z]", form)
        plain_work = span.label == "WORK" and form not in titles
        often_plain = forms.occurrences.get(form, 0) >= 3 and forms.share(form, span.label) < 0.3
        (masked if plain_product or plain_work or often_plain else kept).append(span)
    digits = [LabelledSpan(word.start(), word.end(), "") for word in re.finditer(r"\S*[0-9]\S*", text)]
    for span in [*project(text, forms), *digits]:
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            masked.append(span)
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
