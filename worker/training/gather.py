"""From the files of the data folder to what a training run learns from and chooses by."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

from worker.text.normalise import normalise
from worker.training.corpora import Sentence, read_klue, read_lines, read_multiconer, read_reviews
from worker.training.examples import Example, example_of
from worker.training.labels import FINE
from worker.training.own_lines import read_own_lines
from worker.training.projection import count_occurrences, project_all, read_forms
from worker.training.queries import QueryWords, gather_words, make_queries
from worker.training.recipe import DataRecipe
from worker.training.reviews import make_reviews
from worker.training.unmarked import count_words, multiconer_example, titles_of, unmarked_example, without_entities

_TRAIN: Final = "klue_ner_train.jsonl"
_DEV: Final = "klue_ner_dev_a.jsonl"
_REPORTED: Final = "klue_ner_dev_b.jsonl"
_FORMS: Final = "fine_forms_train.tsv"
_MULTICONER: Final = "multiconer_ko_train.conll"
_REVIEWS: Final = "reviews.jsonl.gz"
_UTTERANCES: Final = "utterances.txt"
FILES: Final = (_TRAIN, _DEV, _FORMS, _MULTICONER, _REVIEWS, _UTTERANCES)
_POOL: Final = 3  # passes' worth of texts without entities that passes draw from
_LONGEST: Final = 200  # characters of an unlabelled review
_FEWEST_OF_CHARACTER: Final = 3  # occurrences for a place in the character table


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What every pass shows, what each pass draws from, and the sentences kept aside."""

    always: tuple[Example, ...]
    by_hand: tuple[Example, ...]
    reviews: tuple[Example, ...]
    utterances: tuple[Example, ...]
    multiconer: tuple[Example, ...]
    unlabelled: tuple[Example, ...]  # reviews as they come, for a teacher to label
    words: QueryWords
    kept_aside: tuple[Sentence, ...]
    texts: tuple[str, ...]  # that the vocabulary is cut by
    hashes: dict[str, str]  # file name -> SHA-256

    def examples(self, recipe: DataRecipe, seed: int) -> list[Example]:
        """The examples of one pass; the same for the same seed."""
        random = Random(seed)
        drawn = [
            *random.sample(self.reviews, min(recipe.reviews, len(self.reviews))),
            *random.sample(self.utterances, min(recipe.utterances, len(self.utterances))),
            *random.sample(self.multiconer, min(recipe.multiconer, len(self.multiconer))),
            *random.sample(self.unlabelled, min(recipe.unlabelled_reviews, len(self.unlabelled))),
        ]
        made = [
            *make_queries(self.words, recipe.queries, random),
            *make_reviews(self.words, recipe.marked_reviews, random),
        ]
        return [*self.always, *self.by_hand * recipe.by_hand_copies, *map(example_of, made), *drawn]

    def taught(self, teach: Callable[[Sequence[Example]], list[Example]]) -> "TrainingData":
        """The same with a teacher's labels beside the data's own, but for texts marked by hand or made anew."""
        groups = (self.always, self.reviews, self.utterances, self.multiconer, self.unlabelled)
        taught = iter(teach([example for group in groups for example in group]))
        always, reviews, utterances, multiconer, unlabelled = (tuple(islice(taught, len(group))) for group in groups)
        return replace(
            self,
            always=always,
            reviews=reviews,
            utterances=utterances,
            multiconer=multiconer,
            unlabelled=unlabelled,
        )


def gather(
    folder: Path, recipe: DataRecipe, seed: int, never: Path | None = None, by_hand: Path | None = None
) -> TrainingData:
    """Read the folder's files, project the fine labels, and find text without entities.

    Texts of the evaluation sets in the folder `never` are left out, and so are those of KLUE's dev set that are for
    reporting, if the folder has them; spaces and case make no other text. `by_hand` is a folder of JSON lines marked
    for the eleven labels.

    Raises FileNotFoundError naming what is missing, and ValueError with the line that isn't marked as it should be.
    """
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"{folder}: no {', '.join(missing)}; docs/model-card.md says where the data comes from")
    random = Random(seed)
    train, dev = read_klue(folder / _TRAIN), read_klue(folder / _DEV)
    forms = count_occurrences(read_forms(folder / _FORMS), [sentence.text for sentence in train])
    with_fine = [sentence for sentence in dev if sentence.fine is not None]
    kept_aside = sorted(random.sample(range(len(with_fine)), min(recipe.kept_aside, len(with_fine))))
    aside = set(kept_aside)
    gold = [sentence for index, sentence in enumerate(with_fine) if index not in aside]
    multiconer = read_multiconer(folder / _MULTICONER)
    held_out = _keys(folder / _REPORTED) if (folder / _REPORTED).exists() else frozenset()
    held_out |= _held_out(never) if never else frozenset()
    shown = [sentence for sentence in train if _key(sentence.text) not in held_out]
    reviews = [text for text in read_reviews(folder / _REVIEWS) if _key(text) not in held_out]
    utterances = [text for text in read_lines(folder / _UTTERANCES) if _key(text) not in held_out]
    titles = titles_of(multiconer)
    words = gather_words(forms, multiconer, titles)
    seen = count_words([*reviews, *utterances])
    names = [name for found in words.by_hand.values() for name in found]
    plain_reviews = without_entities(reviews, forms, names, recipe.reviews * _POOL, random)
    plain_utterances = without_entities(utterances, forms, names, recipe.utterances * _POOL, random)
    marked = sorted(by_hand.glob("*.jsonl")) if by_hand else []
    if by_hand and not marked:
        raise FileNotFoundError(f"{by_hand}: no texts marked by hand (*.jsonl) in it")
    unlabelled = random.sample(reviews, min(recipe.unlabelled_reviews * _POOL, len(reviews)))
    return TrainingData(
        always=tuple(map(example_of, [*project_all(shown, forms), *gold * recipe.gold_copies])),
        by_hand=tuple(
            map(example_of, (one for path in marked for one in _marked(path) if _key(one.text) not in held_out))
        ),
        reviews=tuple(unmarked_example(sentence, seen) for sentence in plain_reviews),
        utterances=tuple(unmarked_example(sentence, seen) for sentence in plain_utterances),
        multiconer=tuple(multiconer_example(one, forms, titles) for one in (multiconer if recipe.multiconer else ())),
        unlabelled=tuple(example_of(Sentence(text[:_LONGEST], None, None)) for text in unlabelled),
        words=words,
        kept_aside=tuple(with_fine[index] for index in kept_aside),
        texts=_vocabulary_texts(train, dev, multiconer, reviews, utterances),
        hashes={
            **{
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in [*map(folder.joinpath, FILES), *marked]
            },
            "held out": hashlib.sha256("\n".join(sorted(held_out)).encode()).hexdigest(),
        },
    )


def character_table(texts: tuple[str, ...]) -> str:
    """The characters that occur often enough to be learned, the most frequent first."""
    counts = Counter("".join(texts))
    common = [(-count, character) for character, count in counts.items() if count >= _FEWEST_OF_CHARACTER]
    return "".join(character for _, character in sorted(common))


def _marked(path: Path) -> list[Sentence]:
    labels = {tag[2:]: tag[2:] for tag in FINE.tags[1:]}
    texts, _ = read_own_lines(path, labels, tuple(labels))
    if not texts:
        raise ValueError(f"{path}: no texts in it")
    return [Sentence(own.text, own.spans, None) for own in texts]


def _held_out(folder: Path) -> frozenset[str]:
    sets = sorted(folder.glob("*.jsonl"))
    if not sets:
        raise FileNotFoundError(f"{folder}: no evaluation sets (*.jsonl) in it, whose texts were to be left out")
    return frozenset().union(*map(_keys, sets))


def _keys(path: Path) -> frozenset[str]:
    with path.open(encoding="utf-8") as lines:
        return frozenset(_key(json.loads(line)["text"]) for line in lines)


def _key(text: str) -> str:
    """What texts have in common that differ in spaces, case or normalisation alone."""
    return "".join(normalise(text).text.split()).lower()


def _vocabulary_texts(
    train: list[Sentence], dev: list[Sentence], multiconer: list[Sentence], reviews: list[str], utterances: list[str]
) -> tuple[str, ...]:
    marked = [sentence.text for sentence in [*train, *dev]]
    # Names are where pieces matter most, and reviews are the most numerous by far.
    return (*marked * 3, *(sentence.text for sentence in multiconer), *reviews[:120_000], *utterances)
