import io
import json
from itertools import islice

import pytest
from fake_engine import POISON, FakeEngine

from worker.ner.annotate import LOOK_AHEAD, annotate
from worker.ner.bench import bench
from worker.ner.errors import EngineError
from worker.ner.lines import LineError, annotate_lines
from worker.ner.loading import load_engine


@pytest.fixture(scope="module")
def tagger(tagger_folder):
    return load_engine(str(tagger_folder), taxonomy="own", device="cpu", threads=1)


def words(count):
    return [f"{'가' * (i % 40)} 이병헌 {i}" for i in range(count)]


def test_results_come_in_the_order_of_the_texts_whatever_their_lengths():
    texts = words(1000)
    results = list(annotate(FakeEngine(), texts, batch_tokens=200))
    assert [(text[e.start : e.end], e.text) for text, (e,) in zip(texts, results, strict=True)] == [
        ("이병헌", "이병헌")
    ] * 1000


def test_batches_hold_texts_of_like_length_within_the_budget():
    engine, batches = FakeEngine(), []
    list(annotate(engine, words(1000), batch_tokens=200, on_batch=batches.append))
    assert sum(batch.windows for batch in batches) == 1000
    assert all(batch.tokens + batch.padding <= 200 for batch in batches)
    assert sum(batch.padding for batch in batches) < 0.1 * sum(batch.tokens for batch in batches)


def test_texts_are_read_only_so_far_ahead():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield "이병헌"

    results = annotate(FakeEngine(), endless())
    assert len(list(islice(results, 20_000))) == 20_000
    assert read <= 20_000 + 3 * LOOK_AHEAD
    results.close()


def test_blank_texts_and_long_texts_keep_their_places(tagger):
    texts = ["", "이병헌", " ", "이병헌 영화 " * 100, "", "서울"]
    results = list(annotate(tagger, texts))
    assert results[0] == results[2] == results[4] == []
    assert max(entity.start for entity in results[3]) > 400
    for text, entities in zip(texts, results, strict=True):
        assert all(text[e.start : e.end] == e.text for e in entities)


def test_a_poison_text_is_told_and_the_others_go_through():
    results = list(annotate(FakeEngine(), ["이병헌", f"{POISON} 이병헌", "부산"]))
    assert [isinstance(result, EngineError) for result in results] == [False, True, False]


def test_no_texts():
    assert list(annotate(FakeEngine(), [])) == []


def run_lines(content, engine=None, plain=False):
    output, written = io.BytesIO(), []
    counts = annotate_lines(engine or FakeEngine(), io.BytesIO(content), output, plain=plain, progress=written.append)
    return counts, [json.loads(line) for line in output.getvalue().splitlines()], sum(written), output.getvalue()


def test_json_lines_keep_every_other_field_to_the_byte():
    line = '{"n": 123456789012345678901234567890, "text": "이병헌 \\u2764", "x":{"a":[1.10,null]} }'
    counts, records, written, output = run_lines(f"{line}\n\n".encode())
    assert output.decode().startswith(line[:-1].rstrip())
    assert records[0]["n"] == 123456789012345678901234567890
    assert records[0]["entities"] == [
        {"field": "text", "start": 0, "end": 3, "text": "이병헌", "type": "PER", "label": "PER", "score": 0.9}
    ]
    assert (counts.texts, dict(counts.entities), written) == (1, {"PER": 1}, 1)


def test_entities_that_were_there_are_replaced():
    line = '{"entities":[1],"n":123456789012345678901234567890,"text":"부산"}\n'
    _, (record,), _, output = run_lines(line.encode())
    assert output.count(b'"entities"') == 1
    assert record["n"] == 123456789012345678901234567890
    assert [entity["text"] for entity in record["entities"]] == ["부산"]


def test_all_else_stays_as_it_was_written_to_the_byte():
    kept = rb'{"price":1.10,"e":1E5,"u":"\u00e9","a":1,"a":2,"text":"","n":0.1000000000000000055511151231257827'
    for line in (kept + b"}", kept + b',"entities":[{"start":0}]}'):
        *_, output = run_lines(line + b"\n")
        assert output == kept + b',"entities":[]}\n'


def test_plain_lines():
    _, records, _, _ = run_lines('\ufeff이병헌 "영화"\r\n\n부산'.encode(), plain=True)
    assert [record["text"] for record in records] == ['이병헌 "영화"', "", "부산"]
    assert [len(record["entities"]) for record in records] == [1, 0, 1]


@pytest.mark.parametrize(
    ("bad", "plain", "said"),
    [
        (b"secret\n", False, "line 3: not JSON"),
        (b'["secret"]\n', False, "line 3: not a JSON object"),
        (b'{"texts": "secret"}\n', False, 'line 3: no field "text"'),
        (b'{"text": 7}\n', False, 'line 3: no field "text"'),
        (b'{"text": "secret \xff"}\n', False, "line 3: not JSON"),
        (b"secret \xff\n", True, "line 3: not UTF-8"),
        (f'{{"text": "secret {POISON}"}}\n'.encode(), False, "line 3: the model failed"),
    ],
)
def test_a_bad_line_is_named_without_its_words_and_the_lines_before_it_are_written(bad, plain, said):
    good = b'{"text": "x"}\n'
    output = io.BytesIO()
    with pytest.raises(LineError) as error:
        annotate_lines(
            FakeEngine(), io.BytesIO(good * 2 + bad + good), output, plain=plain, progress=lambda count: None
        )
    assert str(error.value).startswith(said)
    assert "secret" not in str(error.value)
    assert len(output.getvalue().splitlines()) == 2


def test_bench_counts_what_ran(tagger):
    texts = ["이병헌은 영화를 좋아요", "서울 부산", ""] * 50
    figures = bench(tagger, texts)
    assert (figures.texts, figures.failed, figures.engine) == (150, 0, "onnxruntime")
    assert figures.tokens == sum(window.tokens for one in tagger.encode(texts) for window in one.windows)
    assert figures.texts_per_second == pytest.approx(150 / figures.seconds)
    assert 0 <= figures.padding_share <= 0.25
    assert 0 < figures.batch_seconds_p50 <= figures.batch_seconds_p99 <= figures.seconds
    assert figures.entities > 0


def test_bench_of_nothing_is_refused(tagger):
    with pytest.raises(ValueError, match="no texts"):
        bench(tagger, [])
