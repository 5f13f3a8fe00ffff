"""`koner train --from`: a new label is learned from a user's few texts, and the others stay as they were."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from model_folder import make_model_folder
from own_genres import TAXONOMY, genre_lines, held_out_genres

from worker.ner.errors import ModelError
from worker.ner.loading import load_engine
from worker.ner.network import CharacterTagger
from worker.training.further import train_further
from worker.training.labels import FINE, KLUE
from worker.training.scoring import score

SETS = Path(__file__).parents[1] / "data" / "evaluation"
CHOOSE = sorted(SETS.glob("*_choose.jsonl"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.toml"
    path.write_text(TAXONOMY, "utf-8")
    return path


@pytest.fixture
def data(tmp_path):
    return genre_lines(tmp_path / "genres.jsonl", 30)


@pytest.mark.timeout(600)
def test_the_bundled_model_learns_a_genre_from_200_texts_and_keeps_the_other_labels(tmp_path, labels):
    data = genre_lines(tmp_path / "mine.jsonl", 200)
    unseen = tmp_path / "unseen.jsonl"
    unseen.write_text("".join(json.dumps(row) + "\n" for row in held_out_genres()), "utf-8")
    made = train_further("bundled", data, labels, tmp_path / "out")
    assert (made.texts, made.kept_aside, made.marked) == (180, 20, ("GENRE",))
    assert made.f1 > 0.8

    further = load_engine(str(made.folder), taxonomy=str(labels), threads=1)
    genre = score(further, str(labels), [unseen], lambda part: None)["types"]["GENRE"]
    assert genre["f1"] > 0.6  # of genres that are mostly new, in sentences that all are

    bundled = load_engine("bundled", taxonomy="movies", threads=1)
    before = others(score(bundled, "movies", CHOOSE, lambda part: None))
    after = others(score(further, str(labels), CHOOSE, lambda part: None))
    assert after > before - 0.01


def others(told) -> float:
    """Micro F1 of all types but GENRE."""
    types = [of for kind, of in told["types"].items() if kind != "GENRE"]
    return 2 * sum(of["right"] for of in types) / sum(of["found"] + of["true"] for of in types)


def test_the_new_label_stands_after_the_old_ones_and_the_other_layer_is_as_it_was(tiny, data, labels, tmp_path):
    made = train_further(str(tiny), data, labels, tmp_path / "out")
    model = CharacterTagger.from_folder(made.folder)
    assert [layer.name for layer in model.layers] == ["fine", "klue"]
    assert model.layers[0].tags == (*FINE.tags, "B-GENRE", "I-GENRE")
    assert model.layers[1].tags == KLUE.tags
    config = json.loads((made.folder / "config.json").read_text("utf-8"))
    assert (config["name"], config["revision"]) == ("tiny+GENRE", made.revision)
    assert {"data", "labels", "code", "from"} <= set(config["trained_on"])


def test_a_new_label_gets_the_transitions_that_labels_have_on_average(tiny, data, labels, tmp_path):
    begun = CharacterTagger.from_folder(tiny)
    with torch.no_grad():
        begun.moves[0].copy_(torch.arange(144).reshape(12, 12) / 100)
        begun.stays[0].fill_(0.5)
    begun.save(
        tmp_path / "with",
        name="with",
        tokenizer_json=(tiny / "tokenizer.json").read_text("utf-8"),
        characters=json.loads((tiny / "characters.json").read_text("utf-8"))["characters"],
        trained_on={},
    )
    made = train_further(str(tmp_path / "with"), data, labels, tmp_path / "out")
    old, new = (CharacterTagger.from_folder(folder).moves[0].detach() for folder in (tmp_path / "with", made.folder))
    kept = [*range(11), 12]  # GENRE stands before outside
    torch.testing.assert_close(new[kept][:, kept], old)
    torch.testing.assert_close(new[11, kept], old[:11].mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(new[kept, 11], old[:, :11].mean(1), atol=1e-4, rtol=0)
    assert float(new[11, 11]) == pytest.approx(float(old[:11, :11].mean()), abs=1e-4)
    assert CharacterTagger.from_folder(made.folder).stays[0].tolist() == pytest.approx([0.5] * 12)


def test_a_cut_run_taken_up_again_ends_in_the_same_weights(tiny, data, labels, tmp_path):
    class Cut(Exception):
        pass

    def cut_half_way(step):
        if step.part > 0.5:
            raise Cut

    with pytest.raises(Cut):
        train_further(str(tiny), data, labels, tmp_path / "cut", progress=cut_half_way)
    resumed = train_further(str(tiny), data, labels, tmp_path / "cut", resume=True)
    assert resumed.revision == train_further(str(tiny), data, labels, tmp_path / "whole").revision


def test_a_run_is_not_taken_up_on_other_data(tiny, data, labels, tmp_path):
    train_further(str(tiny), data, labels, tmp_path / "out")
    with pytest.raises(FileExistsError, match="--resume"):
        train_further(str(tiny), data, labels, tmp_path / "out")
    with pytest.raises(ValueError, match="on other data"):
        train_further(
            str(tiny), genre_lines(tmp_path / "more.jsonl", 20, seed=9), labels, tmp_path / "out", resume=True
        )


def test_a_model_is_not_written_over_itself(tiny, data, labels):
    with pytest.raises(ValueError, match="choose another folder"):
        train_further(str(tiny), data, labels, tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('GENRE = "GENRE"\n', ""), "no label that the model lacks"),
        (("[types]", 'marked = ["PER"]\n\n[types]'), "GENRE is new to the model, and must stand in marked"),
        (("[types]", 'marked = ["FOOD"]\n\n[types]'), "marked must be a list of labels"),
        (('PER = "PER"\n', ""), "PER"),
    ],
)
def test_a_taxonomy_that_does_not_go_with_the_model_is_one_line(tiny, data, labels, tmp_path, change, message):
    labels.write_text(TAXONOMY.replace(*change), "utf-8")
    with pytest.raises((ModelError, ValueError), match=message) as caught:
        train_further(str(tiny), data, labels, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_texts_that_mark_nothing_are_refused(tiny, labels, tmp_path):
    data = tmp_path / "plain.jsonl"
    data.write_text('{"text": "좋아요", "entities": []}\n', "utf-8")
    with pytest.raises(ValueError, match="no text marks GENRE"):
        train_further(str(tiny), data, labels, tmp_path / "out")


def test_the_rehearsed_words_lie_in_the_package():
    words = Path(str(files("worker.training") / "words"))
    assert {"PER.txt", "WORK.txt", "goods.txt"} <= {path.name for path in words.iterdir()}
