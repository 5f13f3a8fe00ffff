"""A wrong recipe is refused with the key that is wrong."""

from pathlib import Path

import pytest

from worker.training.recipe import read_recipe

TINY = Path(__file__).parent / "tiny.toml"
BUNDLED = Path(__file__).parents[2] / "recipes" / "bundled.toml"


def test_the_bundled_recipe_is_whole():
    recipe = read_recipe(BUNDLED)
    assert recipe.teacher
    assert recipe.model is None
    assert read_recipe(BUNDLED.parent / recipe.teacher.recipe).model.layers > len(recipe.teacher.layers)


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
