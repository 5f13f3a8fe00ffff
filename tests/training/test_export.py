"""The ONNX file: the network's own sums, in the operators that are fast."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from model_folder import make_model_folder

from worker.ner.encoding import CharacterEncoder
from worker.ner.network import ONNX_WEIGHTS, CharacterTagger
from worker.training.export import _Encoder, _largest_inputs, _Smooth, _Table, onnx_forward

TEXTS = ["이병헌은 서울에서 영화를 보고 부산 바다로 2019년", "영화", "", "가나다 라마바사"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model"), layers=3)


@pytest.fixture(scope="module")
def model(folder):
    return CharacterTagger.from_folder(folder)


@pytest.fixture(scope="module")
def batch(folder):
    encoder = CharacterEncoder.from_folder(folder)
    return encoder.collate(encoder.encode(TEXTS))


@pytest.mark.parametrize("texts", [[], TEXTS[:2]])
def test_the_exported_encoder_computes_the_states_of_the_network(folder, model, batch, texts):
    largest = _largest_inputs(model, CharacterEncoder.from_folder(folder), texts)
    pieces = {name: torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")}
    assert not pieces["attention_mask"].all()  # there is padding to hide
    with torch.inference_mode():
        expected = model.encoder(**pieces).last_hidden_state
        states = _Encoder(model.encoder, largest)(**pieces).last_hidden_state
    shown = pieces["attention_mask"].bool()
    torch.testing.assert_close(states[shown], expected[shown], atol=0.02, rtol=0)  # tables in int8, the rest as it is


def test_large_channels_are_made_smaller_by_what_their_weights_are_made_larger():
    weight, bias = torch.randn(5, 4), torch.randn(5)
    states = torch.randn(9, 4) * torch.tensor([1.0, 100.0, 1.0, 0.0])
    smooth = _Smooth(weight, bias, states.abs().amax(0))
    torch.testing.assert_close(smooth(states), torch.nn.functional.linear(states, weight, bias))
    spread = (states * smooth.smaller).abs().amax(0)[:3]
    assert spread.max() / spread.min() < 10
    assert torch.equal(_Smooth(weight, bias, None).weight, weight)


def test_large_pieces_are_made_as_large_as_the_others_before_the_product(monkeypatch):
    weight, bias = torch.randn(5, 64), torch.randn(5)
    states = torch.nn.functional.gelu(torch.randn(9, 64) * torch.tensor([1.0, 1000.0, 0.0] * 3)[:, None])
    linear, seen = torch.nn.functional.linear, []
    expected = linear(states, weight, bias)
    monkeypatch.setattr(torch.nn.functional, "linear", lambda given, *maps: seen.append(given) or linear(given, *maps))
    torch.testing.assert_close(_Smooth(weight, bias, None, by_piece=True)(states), expected, rtol=1e-4, atol=1e-3)
    largest = seen[0].abs().amax(1)
    torch.testing.assert_close(largest, torch.tensor([1.0, 1.0, 0.0] * 3))


def test_a_table_gives_back_its_rows_within_half_a_step():
    weight = torch.randn(7, 5) * torch.tensor([1, 10, 0.1, 0, 1, 1, 1])[:, None]
    table = _Table(weight)
    step = weight.abs().amax(1, keepdim=True) / 127
    rows = torch.tensor([3, 0, 1, 2, 6])
    assert ((table(rows) - weight[rows]).abs() <= step[rows] / 2 + 1e-6).all()
    assert torch.equal(table.first(3), table(torch.arange(3)))


def test_int8_logits_are_near_the_networks_on_padded_batches(model, folder, batch):
    found = onnx_forward(folder, 1)(batch)
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
    real = batch["characters"] != 0
    for ours, theirs in zip(found, expected, strict=True):
        spread = theirs.numpy()[real].std()
        assert np.abs(ours - theirs.numpy())[real].mean() < 0.1 * spread


def test_every_product_with_weights_is_an_int8_one(folder):
    graph = onnx.load(folder / ONNX_WEIGHTS).graph
    count = Counter(node.op_type for node in graph.node)
    assert count["QAttention"] == 3
    # A layer's three, the map from the encoder, two convolutions, two label layers.
    assert count["MatMulInteger"] == 3 * 3 + 1 + 2 + 2
    assert not count.keys() & {"MatMul", "Gemm", "Conv", "Attention"}
