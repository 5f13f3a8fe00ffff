import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from worker.observe.tracing import NoTracer, OtlpTracer, make_tracer
from worker.settings import SettingsError, load

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return OtlpTracer(provider)


def test_a_span_links_to_the_traces_its_records_came_with(tracer, spans):
    headers = [[("traceparent", PARENT), ("other", b"1")], [("traceparent", b"nonsense")], [("traceparent", None)]]
    with tracer.span("process", {"messaging.batch.message_count": 3}, headers):
        pass
    (span,) = spans.get_finished_spans()
    assert span.attributes == {"messaging.system": "kafka", "messaging.batch.message_count": 3}
    assert [f"{link.context.trace_id:032x}" for link in span.links] == ["0af7651916cd43dd8448eb211c80319c"]


def test_a_failure_is_told_by_its_type_and_never_by_its_words(tracer, spans):
    def fail():
        with tracer.span("process", {}):
            raise ValueError("이병헌")

    with pytest.raises(ValueError, match="이병헌"):
        fail()
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert "이병헌" not in span.to_json(indent=None)


def test_without_an_endpoint_nothing_is_traced():
    assert isinstance(make_tracer(load()), NoTracer)


def test_without_opentelemetry_an_endpoint_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match="tracing_endpoint needs OpenTelemetry: pip install"):
        make_tracer(load(tracing_endpoint="http://127.0.0.1:4318/v1/traces"))
