import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from worker.observe.metrics import Metrics

# What a label may hold: the operator's own words, or one of a fixed set.
BOUNDED = {"source", "topic", "partition", "outcome", "reason", "type", "lane", "stage", "kind"}
MODEL_INFO = {"model", "revision", "taxonomy", "engine", "device"}
OF_THE_PROCESS = ("process_", "python_")


def _ours() -> list:
    return [family for family in Metrics().registry.collect() if not family.name.startswith(OF_THE_PROCESS)]


@pytest.mark.parametrize("family", _ours(), ids=lambda family: family.name)
def test_names_keep_prometheus_conventions(family) -> None:
    assert re.fullmatch(r"koner_[a-z0-9]+(_[a-z0-9]+)*", family.name)
    assert family.documentation.endswith(".")
    assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent|count|sum)$", family.name)
    if family.type == "counter":
        assert not family.name.endswith("_total")  # the family; its samples do
        assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
    if family.type == "gauge":
        assert not family.name.endswith("_total")


def test_labels_hold_nothing_that_grows_without_bound() -> None:
    metrics = Metrics()
    for name, metric in vars(metrics).items():
        labels = set(getattr(metric, "_labelnames", ()))
        assert labels <= (MODEL_INFO if name == "model_info" else BOUNDED), name


async def test_metrics_are_exposed_as_text_by_default(start) -> None:
    worker = await start()
    worker.pipeline.metrics.entities.labels("PER").inc(2)
    async with worker.client.get(worker.url("/metrics")) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = {family.name: family for family in parse_text(await answer.text())}
    assert families["koner_entities"].samples[0].labels == {"type": "PER"}
    assert families["koner_model_info"].samples[0].labels == {
        "model": "tiny",
        "revision": "0123abcd",
        "taxonomy": "seed",
        "engine": "onnxruntime",
        "device": "cpu",
    }
    assert "process_resident_memory_bytes" in families


async def test_metrics_are_exposed_as_openmetrics_when_asked_for(start) -> None:
    worker = await start()
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    async with worker.client.get(worker.url("/metrics"), headers={"Accept": accept}) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.headers["Content-Encoding"] in ("deflate", "gzip")
        families = {family.name for family in parse_openmetrics(await answer.text())}
    assert {"koner_records_in", "koner_latency_seconds", "koner_consumer_lag_records"} <= families


def test_series_that_alerts_compare_exist_from_the_start() -> None:
    samples = {
        (sample.name, *sample.labels.values()) for family in Metrics().registry.collect() for sample in family.samples
    }
    assert ("koner_engine_errors_total", "out_of_memory") in samples
    assert ("koner_commits_total", "failed") in samples
    assert ("koner_stage_seconds_count", "forward") in samples
