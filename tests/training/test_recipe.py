"""A wrong recipe is refused with the key that is wrong."""

import json
from pathlib import Path

import pytest

from worker.training.recipe import read_recipe

TINY = Path(__file__).parent / "tiny.toml"
BUNDLED = Path(__file__).parents[2] / "recipes" / "bundled.toml"


def test_the_bundled_recipe_is_whole_and_so_are_those_it_begins_with():
    assert layers_of(BUNDLED) == 8


def layers_of(path):
    """How many layers a recipe's model has, and its first teacher's enough of them."""
    recipe = read_recipe(path)
    if recipe.model:
        return recipe.model.layers
    first, *_ = [layers_of(path.parent / name) for name in recipe.teacher.recipes]
    assert set(recipe.teacher.layers) <= set(range(first))
    return len(recipe.teacher.layers)


def test_the_texts_marked_by_hand_are_there_and_none_is_of_an_evaluation_set():
    recipe = read_recipe(BUNDLED).data
    texts = {path.stem: read_texts(path) for path in (BUNDLED.parent / recipe.by_hand).glob("*.jsonl")}
    assert {name: len(found) for name, found in texts.items()} == {
        "reviews": 36042,
        "queries": 20880,
        "written_reviews": 4896,
        "sentences": 6085,
    }
    kept = {text for path in (BUNDLED.parent / recipe.never).glob("*.jsonl") for text in read_texts(path)}
    assert len(kept) > 1000
    assert not kept & {text for found in texts.values() for text in found}


def read_texts(path):
    return [json.loads(line)["text"].strip() for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("passes = 3", "", r"loop\.passes is missing"),
        ("passes = 3", "passes = 3\nepochs = 3", r"loop\.epochs is unknown"),
        ("passes = 3", 'passes = "3"', r"loop\.passes is '3'; it must be of type int"),
        ("passes = 3", "passes = true", r"loop\.passes is True"),
        ("dropout = 0.1", "dropout = 1.1", r"loop\.dropout is 1\.1; it must be in \[0, 1\)"),
        ("[noise]", "[nose]", r"no \[noise\]"),
        ('name = "tiny"', "name = tiny", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    (tmp_path / "recipe.toml").write_text(TINY.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(ValueError, match=message):
        read_recipe(tmp_path / "recipe.toml")


def test_a_crf_goes_with_no_other_temperature_than_one(tmp_path):
    wrong = BUNDLED.read_text("utf-8").replace("temperature = 1.0", "temperature = 2.0")
    (tmp_path / "recipe.toml").write_text(wrong, "utf-8")
    with pytest.raises(ValueError, match=r"teacher\.temperature is 2\.0; with loop\.transition_rate it must be 1"):
        read_recipe(tmp_path / "recipe.toml")
