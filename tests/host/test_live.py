import json
import re
from importlib.resources import files

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.observe.live import SHOWN_CHARS, Recent, view


def enriched(text: str, *spans: tuple[int, int, str], offset: int = 7) -> bytes:
    entities = [
        {"field": "text", "start": start, "end": end, "text": text[start:end], "type": type_, "score": 0.9}
        for start, end, type_ in spans
    ]
    source = {"topic": "reviews.raw", "partition": 1, "offset": offset}
    return orjson.dumps({"text": text, "entities": entities, "enrichment": {"kind": "review", "source": source}})


def test_a_record_is_cut_by_code_points() -> None:
    shown = view(enriched("😀 이병헌은 👨‍👩‍👧", (2, 5, "PER")))
    assert shown is not None
    assert shown["segments"] == [
        {"text": "😀 "},
        {"text": "이병헌", "type": "PER", "score": 0.9},
        {"text": "은 👨‍👩‍👧"},
    ]
    assert shown["source"] == {"topic": "reviews.raw", "partition": 1, "offset": 7}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=2 * SHOWN_CHARS), st.data())
def test_joined_segments_are_the_text_and_entities_keep_theirs(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), unique=True, max_size=8)))
    spans = [(start, end, "PER") for start, end in zip(cuts[::2], cuts[1::2], strict=False)]
    shown = view(enriched(text, *spans))
    assert shown is not None
    assert "".join(segment["text"] for segment in shown["segments"]) == text[:SHOWN_CHARS]
    assert shown["truncated"] == (len(text) > SHOWN_CHARS)
    told = [segment["text"] for segment in shown["segments"] if "type" in segment]
    assert told == [text[start : min(end, SHOWN_CHARS)] for start, end, _ in spans if start < SHOWN_CHARS]


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"text": 1}', b'{"entities": []}', b"\xff"])
def test_what_is_no_enriched_record_is_left_out(value: bytes) -> None:
    recent = Recent()
    recent.add(value)
    assert recent.views() == []


def test_the_newest_records_come_first_and_the_oldest_go() -> None:
    recent = Recent(2)
    for offset in (1, 2, 3):
        recent.add(enriched("가", offset=offset))
    assert [(one["number"], one["source"]["offset"]) for one in recent.views()] == [(3, 3), (2, 2)]


def test_a_recent_of_no_size_keeps_nothing() -> None:
    recent = Recent(0)
    recent.add(enriched("가"))
    assert recent.views() == []


async def test_the_page_needs_nothing_but_this_server(start) -> None:
    worker = await start()
    async with worker.client.get(worker.url("/")) as answer:
        page = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
    assert page == files("worker.observe").joinpath("live.html").read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|href)=["']?(?!data:)(?:[a-z]+:)?//[^"'> ]+|@import|innerHTML|url\(""", page) == []
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[^']{44}'", policy)) == 2


async def test_live_json_tells_what_flows(start) -> None:
    worker = await start()
    metrics, now = worker.pipeline.metrics, [1000.0]
    worker.app.summary._clock = lambda: now[0]
    worker.app.summary.tick()
    metrics.records_in.labels("reviews.raw").inc(50)
    metrics.records_out.labels("reviews.raw", "enriched").inc(38)
    metrics.records_out.labels("reviews.raw", "dead_letter").inc(2)
    metrics.dead_letters.labels("reviews.raw", "not_json").inc(2)
    metrics.entities.labels("PER").inc(5)
    metrics.entities.labels("LOC").inc(9)
    metrics.batch_tokens.labels("bulk").inc(900)
    metrics.batch_padding.labels("bulk").inc(100)
    metrics.engine_busy_seconds.inc(2.5)
    metrics.consumer_lag.labels("reviews.raw", "10").set(7)
    metrics.consumer_lag.labels("reviews.raw", "9").set(3)
    metrics.latency_seconds.observe("reviews.raw", [0.07] * 100)
    worker.pipeline.recent.add(enriched("이병헌", (0, 3, "PER")))
    now[0] += 5.0
    worker.app.summary.tick()
    _, live = await worker.get("/live.json")
    assert live["rates"] == {"in": 10.0, "out": 8.0}
    assert live["totals"] == {"in": 50.0, "out": 40.0, "enriched": 38.0, "dead_letter": 2.0}
    assert live["entities"] == [{"type": "LOC", "count": 9.0}, {"type": "PER", "count": 5.0}]
    assert live["dead_letters"] == [{"source": "reviews.raw", "reason": "not_json", "count": 2.0}]
    assert live["batches"]["fill"] == pytest.approx(0.9)
    assert live["batches"]["busy"] == pytest.approx(0.5)
    assert (live["lag"], [one["partition"] for one in live["partitions"]]) == (10.0, [9, 10])
    assert 0.05 < live["latency"]["fetch_to_ack"]["p50"] < live["latency"]["fetch_to_ack"]["p99"] <= 0.1
    assert live["history"]["in"][-1] == 10.0
    assert live["records"][0]["segments"] == [{"text": "이병헌", "type": "PER", "score": 0.9}]
    assert live["model"]["name"] == "tiny"


async def test_an_idle_worker_has_rates_of_nothing_and_no_latency(start) -> None:
    worker = await start()
    _, live = await worker.get("/live.json")
    assert live["rates"] == {"in": 0.0, "out": 0.0}
    assert live["latency"]["fetch_to_ack"] == {"p50": None, "p95": None, "p99": None}
    assert live["batches"]["fill"] is None


async def test_records_can_be_left_off_the_page(start) -> None:
    worker = await start(live_records=False)
    worker.pipeline.recent.add(enriched("아무도 보지 못할 말"))
    _, live = await worker.get("/live.json")
    assert (live["records"], live["records_shown"]) == ([], "off")
    assert worker.pipeline.recent.views() == []


async def test_a_foreign_name_that_leads_to_loopback_is_shown_no_records(start) -> None:
    worker = await start()
    worker.pipeline.recent.add(enriched("남의 말"))
    _, live = await worker.get("/live.json", headers={"Host": "rebound.example:6066"})
    assert (live["records"], live["records_shown"]) == ([], "local")
    assert "남의 말" not in json.dumps(live, ensure_ascii=False)
    _, live = await worker.get("/live.json", headers={"Host": "localhost:6066"})
    assert len(live["records"]) == 1


async def test_people_are_told_what_is_in_the_way(start) -> None:
    worker = await start()
    worker.pipeline.fail(RuntimeError("gone"))
    with pytest.raises(RuntimeError, match="gone"):
        await worker.app.wait_ended()
    _, live = await worker.get("/live.json")
    assert (live["alive"], live["ready"], live["problems"]) == (False, False, ["the worker ended: gone"])
