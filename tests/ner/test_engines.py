"""What every engine promises, whatever runs it."""

import threading
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folder import CHARACTERS

from worker.ner.errors import EngineError, EngineOutOfMemory
from worker.ner.loading import load_engine
from worker.records import Span

ODDITIES = [
    unicodedata.normalize("NFD", "이병헌은 서울 영화"),
    "👨\u200d👩\u200d👧 이병헌 ❤\ufe0f 👍🏽🇰🇷",
    "ＣＧＶ　２０１９년 이병헌！",
    "이\u200b병\ufeff헌은\u200d 영화",
    "이병헌ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ 영화ㅠㅠㅠㅠㅠㅠㅠㅠ",
    "㈜이병헌 ①만원 ﬁ ㎞",
    "이병헌\t영화\r\n서울\u3000부산",
    "e\u0301 이병헌\u0301 \ud800 영화",
    "뷁龘 <s> [SEP] ▁ 이병헌",
]
texts = st.lists(
    st.sampled_from(ODDITIES) | st.text(st.sampled_from(CHARACTERS), max_size=30) | st.text(max_size=5), max_size=4
).map("".join)


def entities_of(engine, texts):
    encoded = engine.encode(texts)
    windows = [window for one in encoded for window in one.windows]
    spans = iter(engine.forward(windows) if windows else [])
    return [engine.assemble(one, [next(spans) for _ in one.windows]) for one in encoded]


def assert_exact(text, entities):
    edges = [edge for entity in entities for edge in (entity.start, entity.end)]
    assert edges == sorted(edges)
    for entity in entities:
        assert entity.start < entity.end
        assert text[entity.start : entity.end] == entity.text
        assert entity.text.strip() == entity.text
        assert 0 <= entity.score <= 1
        assert entity.field == "text"
        assert entity.end == len(text) or not unicodedata.combining(text[entity.end])


def test_spans_are_exact_on_texts_as_people_send_them(engine):
    found = entities_of(engine, ODDITIES)
    for text, entities in zip(ODDITIES, found, strict=True):
        assert_exact(text, entities)
    assert sum(map(bool, found)) >= len(ODDITIES) - 3  # the model does find something to be exact about


@given(st.lists(texts, max_size=4))
@settings(max_examples=40, deadline=None)
def test_spans_are_exact_on_any_text(engine, texts):
    for text, entities in zip(texts, entities_of(engine, texts), strict=True):
        assert_exact(text, entities)


def test_decomposed_text_has_the_entities_of_composed_text(engine):
    text = "이병헌은 2019년 서울에서 영화를 바다로 자아내다"
    decomposed = unicodedata.normalize("NFD", text)
    ours, theirs = entities_of(engine, [text])[0], entities_of(engine, [decomposed])[0]
    assert ours
    assert [(e.text, e.type, e.score) for e in ours] == [
        (unicodedata.normalize("NFC", e.text), e.type, e.score) for e in theirs
    ]


@pytest.mark.parametrize("blank", ["", " ", "\n\t\u3000 ", "\u200b", "\u3164"])
def test_a_blank_text_has_no_windows_and_no_entities(engine, blank):
    (encoded,) = engine.encode([blank])
    assert encoded.windows == ()
    assert engine.assemble(encoded, []) == []


def test_nothing_in_nothing_out(engine):
    assert engine.encode([]) == []
    assert engine.forward([]) == []


def test_a_long_text_goes_through_windows_and_comes_back_as_one_list(engine):
    spaced = "이병헌은 영화 서울 부산 " * 150
    unspaced = "이병헌은영화서울부산" * 150
    for text in (spaced, unspaced):
        (encoded,) = engine.encode([text])
        assert len(encoded.windows) > 10
        entities = engine.assemble(encoded, engine.forward(encoded.windows))
        assert_exact(text, entities)
        assert max(e.start for e in entities) > len(text) * 0.9
        assert min(e.start for e in entities) < len(text) * 0.1
        assert all(window.tokens <= 64 for window in encoded.windows)


def test_a_very_long_text_stays_linear_in_windows(engine):
    (encoded,) = engine.encode(["이병헌영화 " * 3334])
    assert sum(window.tokens for window in encoded.windows) < 2 * 20_004


@pytest.mark.parametrize("unknown", ["😂🤣", "▓░▒█", "مرحبا", "뷁쀍꽭뙗"])
def test_what_the_vocabulary_lacks_costs_what_it_is_long(tagger_folder, unknown):
    (encoded,) = load_engine(str(tagger_folder), taxonomy="movies", threads=1).encode([unknown * 2000])
    length = len(encoded.payload.normalised.text)
    for window in encoded.windows:
        characters = len(window.payload.characters)
        assert characters <= 4096
        assert window.tokens >= characters / 4
    assert sum(len(window.payload.characters) for window in encoded.windows) >= length > 1000


def test_a_text_has_the_same_entities_beside_any_others(engine):
    sentences = ["이병헌은 영화를 좋아요", "서울", "부산에서 2019년 이병헌 영화 " * 3, "ㅋㅋ", "가나다 라마바 사아자"]
    together = entities_of(engine, sentences)
    alone = [entities_of(engine, [sentence])[0] for sentence in sentences]
    assert any(alone)
    spans, others = (
        {(i, e.start, e.end, e.label): e.score for i, found in enumerate(all_found) for e in found}
        for all_found in (together, alone)
    )
    common = spans.keys() & others.keys()
    # Dynamic int8 scales activations by the largest of the batch: with random weights, a span near a limit may go
    # and a score jump. The bundled model's own test asks for more.
    integer = engine.info.engine == "onnxruntime"
    assert 2 * len(common) >= (0.85 if integer else 1) * (len(spans) + len(others))
    moved = [abs(spans[span] - others[span]) for span in common]
    assert sum(moved) / len(moved) < 0.1
    assert integer or max(moved) < 0.001


def test_threads_may_call_an_engine_at_once(engine):
    sentences = ["이병헌은 영화를 좋아요", "서울 부산 " * 20, "ㅋㅋ 이병헌"] * 3
    expected = entities_of(engine, sentences)
    found = [None] * 4

    def work(number):
        found[number] = [entities_of(engine, sentences) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[expected] * 3] * 4


def test_info_tells_what_runs(engine, tagger_folder, checkpoint_folder):
    info = engine.info
    assert info.name in ("tiny", str(checkpoint_folder))
    assert len(info.revision) == 12
    assert info.device == "cpu"
    assert engine.forward_threads == 1


def test_spans_of_other_windows_are_refused(engine):
    (encoded,) = engine.encode(["이병헌"])
    with pytest.raises(ValueError, match="bug"):
        engine.assemble(encoded, [])


def test_two_spans_of_one_folded_character_become_one_entity(tagger_folder):
    engine = load_engine(str(tagger_folder), taxonomy="movies", device="cpu", threads=1)
    (encoded,) = engine.encode(["㈜이병헌"])  # the model sees (주)이병헌
    entities = engine.assemble(encoded, [[Span(0, 1, "ORG", 0.65), Span(1, 3, "LOC", 0.7), Span(3, 6, "PER", 0.9)]])
    assert [(e.text, e.type) for e in entities] == [("㈜", "LOC"), ("이병헌", "PER")]


def test_a_dropped_label_gives_no_entity_and_a_folded_one_its_type(tagger_folder):
    engine = load_engine(str(tagger_folder), taxonomy="seed", device="cpu", threads=1)
    (encoded,) = engine.encode(["이병헌 영화"])
    entities = engine.assemble(encoded, [[Span(0, 3, "QUANTITY", 0.9), Span(4, 6, "WORK", 0.71239)]])
    assert [(e.text, e.type, e.label, e.score) for e in entities] == [("영화", "PRODUCT", "WORK", 0.7124)]


def test_a_score_below_the_taxonomys_least_gives_no_entity(tagger_folder):
    shipped = load_engine(str(tagger_folder), taxonomy="seed", device="cpu", threads=1)
    everything = load_engine(str(tagger_folder), taxonomy="own", device="cpu", threads=1)
    spans = [Span(0, 3, "PER", 0.5999), Span(4, 6, "WORK", 0.6)]
    (encoded,) = shipped.encode(["이병헌 영화"])
    assert [e.text for e in shipped.assemble(encoded, [spans])] == ["영화"]
    assert [e.text for e in everything.assemble(encoded, [spans])] == ["이병헌", "영화"]


def test_engines_of_one_folder_agree(tagger_folder):
    sentences = ["이병헌은 영화를 좋아요", "서울 부산 만원", "가나다 라마바 사아자 차카타"]
    onnx, floats = (
        entities_of(load_engine(str(tagger_folder), engine=kind, taxonomy="own", device="cpu"), sentences)
        for kind in ("onnxruntime", "torch")
    )
    same = {(i, e.start, e.end, e.type) for i, found in enumerate(onnx) for e in found} & {
        (i, e.start, e.end, e.type) for i, found in enumerate(floats) for e in found
    }
    assert len(same) >= 0.7 * sum(map(len, floats)) > 0


def test_klue_taxonomy_reads_the_other_label_layer(tagger_folder):
    for kind in ("onnxruntime", "torch"):
        engine = load_engine(str(tagger_folder), engine=kind, taxonomy="klue", device="cpu", threads=1)
        labels = {e.label for found in entities_of(engine, ["이병헌은 영화 서울 부산 만원 2019년 "] * 2) for e in found}
        assert labels
        assert labels <= {"PS", "LC", "OG", "DT", "TI", "QT"}


def test_bfloat16_finds_the_spans_of_float32(tagger_folder):
    sentences = ["이병헌은 영화를 좋아요", "서울 부산 만원"]
    plain, half = (
        entities_of(load_engine(str(tagger_folder), engine="torch", precision=p, device="cpu"), sentences)
        for p in ("float32", "bfloat16")
    )
    assert [[e.start for e in found] for found in half] == [[e.start for e in found] for found in plain]


def test_torch_errors_are_told_apart():
    import torch

    from worker.ner.torch_device import TorchDevice

    device = TorchDevice("cpu", "auto", 1)
    inputs = {"input_ids": np.zeros((1, 1), np.int64)}

    def failing(error):
        def forward(tensors):
            raise error

        return forward

    with pytest.raises(EngineOutOfMemory):
        device.run(inputs, failing(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(EngineOutOfMemory):
        device.run(inputs, failing(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    with pytest.raises(EngineError, match="shape mismatch") as error:
        device.run(inputs, failing(RuntimeError("shape mismatch\nand a long trace")))
    assert not isinstance(error.value, EngineOutOfMemory)
    assert "\n" not in str(error.value)
