import pytest

from worker.ner.errors import ModelError
from worker.ner.taxonomy import load_taxonomy

ELEVEN = ("PER", "LOC", "ORG", "DATE", "TIME", "MONEY", "PERCENT", "EVENT", "PRODUCT", "WORK", "QUANTITY")
LAYERS = {"fine": ELEVEN, "klue": ("PS", "LC", "OG", "DT", "TI", "QT")}
NINE = ("PER", "LOC", "ORG", "DATE", "TIME", "MONEY", "PERCENT", "EVENT", "PRODUCT")


def test_seed_has_nine_types_and_counts_works_as_products():
    seed = load_taxonomy("seed", LAYERS, "m")
    assert (seed.name, seed.layer, seed.types) == ("seed", "fine", NINE)
    assert seed.fold["WORK"] == "PRODUCT"
    assert seed.fold["QUANTITY"] is None


def test_movies_keeps_all_eleven_and_klue_reads_its_own_layer():
    assert load_taxonomy("movies", LAYERS, "m").types == ELEVEN
    klue = load_taxonomy("klue", LAYERS, "m")
    assert (klue.layer, klue.types) == ("klue", LAYERS["klue"])


def test_own_gives_the_models_labels_as_they_are():
    own = load_taxonomy("own", {"labels": ("A", "B")}, "m")
    assert own.fold == {"A": "A", "B": "B"}


def test_a_file_folds_a_teams_labels(tmp_path):
    path = tmp_path / "team.toml"
    path.write_text('dropped = ["C"]\n[types]\nB = "person"\nA = "place"\n', "utf-8")
    team = load_taxonomy(str(path), {"labels": ("A", "B", "C")}, "m")
    assert (team.name, team.types, team.fold["C"], team.least_score) == ("team", ("person", "place"), None, 0)


def test_a_model_of_one_layer_is_read_whatever_the_taxonomy_calls_it():
    assert load_taxonomy("klue", {"labels": LAYERS["klue"]}, "m").layer == "labels"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no [types] table"),
        ("types = 3", "no [types] table"),
        ("[types\n", "not TOML"),
        ("[types]\nA = 1\nB = 'x'", "the type of A"),
        ("[types]\nA = ''\nB = 'x'", "the type of A"),
        ("[types]\nA = 'x'", "says nothing of B"),
        ("[types]\nA = 'x'\nB = 'y'\nZ = 'z'", "names Z"),
        ("dropped = 'B'\n[types]\nA = 'x'", "dropped must be a list"),
        ("dropped = ['A', 'B']\n[types]\nA = 'x'", "A cannot be in"),
        ("layer = 'third'\n[types]\nA = 'x'\nB = 'x'", "no label layer third"),
        ("least_score = 60\n[types]\nA = 'x'\nB = 'x'", "least_score must be a number from 0 to 1"),
        ("least_score = true\n[types]\nA = 'x'\nB = 'x'", "least_score must be a number from 0 to 1"),
        ("layers = 'fine'\n[types]\nA = 'x'\nB = 'x'", "unknown key layers"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, content, said):
    path = tmp_path / "team.toml"
    path.write_text(content, "utf-8")
    with pytest.raises(ModelError) as error:
        load_taxonomy(str(path), {"first": ("A", "B"), "second": ("C",)}, "some-model")
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_do_not_fit_are_named():
    with pytest.raises(ModelError, match=r"names PER.*says nothing of PS.*own"):
        load_taxonomy("seed", {"labels": ("PS", "LC")}, "some-model")


def test_no_such_taxonomy():
    with pytest.raises(ModelError, match="neither one of seed, movies, klue, own nor a TOML file"):
        load_taxonomy("sead", LAYERS, "m")
