"""The tagger's logits, and its folder."""

import json

import numpy as np
import pytest
import torch
from model_folder import make_model_folder

from worker.ner.encoding import CharacterEncoder
from worker.ner.model_config import read_config
from worker.ner.network import CharacterTagger, _convolved, dequantised, quantised, write_revision


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return CharacterTagger.from_folder(folder)


@pytest.fixture(scope="module")
def encoder(folder):
    return CharacterEncoder.from_folder(folder)


def logits(model, encoder, texts):
    batch = {name: torch.from_numpy(array) for name, array in encoder.collate(encoder.encode(texts)).items()}
    with torch.inference_mode():
        return model(**batch)


def test_one_row_of_logits_a_character_and_layer(model, encoder):
    fine, klue = logits(model, encoder, ["이병헌은 영화", "서울"])
    assert fine.shape == (2, 7, 23)
    assert klue.shape == (2, 7, 13)
    assert [layer.name for layer in model.layers] == ["fine", "klue"]


def test_logits_do_not_depend_on_the_texts_beside(model, encoder):
    together = logits(model, encoder, ["이병헌은 영화", "서울 부산 2019년 좋아요 ㅋㅋㅋ", ""])
    alone = logits(model, encoder, ["이병헌은 영화"])
    for layer_together, layer_alone in zip(together, alone, strict=True):
        torch.testing.assert_close(layer_together[0, :7], layer_alone[0], atol=1e-5, rtol=1e-4)


def test_a_saved_folder_gives_the_same_logits(model, encoder, folder, tmp_path):
    model.save(
        tmp_path,
        name="again",
        tokenizer_json=(folder / "tokenizer.json").read_text("utf-8"),
        characters=json.loads((folder / "characters.json").read_text("utf-8"))["characters"],
        trained_on={"recipe": "0" * 64},
    )
    again = CharacterTagger.from_folder(tmp_path)
    for before, after in zip(logits(model, encoder, ["서울 영화"]), logits(again, encoder, ["서울 영화"]), strict=True):
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-3)


def test_the_revision_follows_the_weights(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert len(config["revision"]) == 12
    other = make_model_folder(tmp_path, seed=1)
    assert json.loads((other / "config.json").read_text("utf-8"))["revision"] != config["revision"]
    assert write_revision(folder) == config["revision"]


def test_transitions_are_kept_beside_the_weights_and_change_the_revision(folder, tmp_path):
    model = CharacterTagger.from_folder(folder)
    assert not model.tag_table(0).transitions.any
    with torch.no_grad():
        model.moves[1][2, 0], model.stays[1][5] = 0.25, -1.5
    model.save(
        tmp_path,
        name="with",
        tokenizer_json=(folder / "tokenizer.json").read_text("utf-8"),
        characters=json.loads((folder / "characters.json").read_text("utf-8"))["characters"],
        trained_on={},
    )
    again = CharacterTagger.from_folder(tmp_path)
    assert not again.tag_table(0).transitions.any
    found, read = again.tag_table(1).transitions, read_config(tmp_path).layers["klue"].transitions
    assert (found.moves[2, 0], found.stays[5], abs(found.moves).sum()) == (0.25, -1.5, 0.25)
    assert (read.moves == found.moves).all()
    assert (read.stays == found.stays).all()
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["layers"][1]["transitions"]["stays"][5] = 0
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    assert write_revision(tmp_path) != config["revision"]


def test_a_folder_of_another_format_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"format": "bert"}', "utf-8")
    with pytest.raises(ValueError, match="format is 'bert'"):
        CharacterTagger.from_folder(tmp_path)


def test_stored_matrices_are_within_half_a_step_of_the_weights():
    weights = {"matrix": np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32), "zero": np.zeros((2, 3))}
    weights["bias"] = np.arange(3, dtype=np.float32)
    stored = quantised(weights)
    assert stored["matrix"].dtype == np.int8
    back = dequantised(stored)
    assert (np.abs(back["matrix"] - weights["matrix"]) <= stored["matrix.scale"] / 2 + 1e-6).all()
    assert (back["zero"] == 0).all()
    assert (back["bias"] == weights["bias"]).all()


def test_the_matrix_product_over_neighbours_is_the_convolution() -> None:
    torch.manual_seed(1)
    convolution = torch.nn.Conv1d(6, 5, 3, padding=1)
    seen = torch.randn(2, 9, 6)
    with torch.inference_mode():
        expected = convolution(seen.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(_convolved(convolution, seen), expected)
