"""Spans for what the worker does with a batch, sent by OTLP; without `tracing_endpoint` nothing is made or imported.

Names and attributes follow OpenTelemetry's conventions for messaging
(https://opentelemetry.io/docs/specs/semconv/messaging/kafka/). A span links to the traces its records came with, by
their `traceparent` header (https://www.w3.org/TR/trace-context/); records themselves go out as they came in.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from worker.settings import Settings, SettingsError

Attributes = Mapping[str, str | int | float]
Headers = Iterable[tuple[str, bytes | None]]

SERVICE = "koner-stream"
MOST_LINKS = 128  # of a span, as OpenTelemetry's SDK has it
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Tracer(Protocol):
    """Makes spans."""

    enabled: bool

    @contextmanager
    def span(self, name: str, attributes: Attributes, headers: Iterable[Headers] = ()) -> Iterator[None]:
        """A span as long as the context, linked to the traces that `headers`, of one record each, name."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class NoTracer:
    """Makes nothing."""

    enabled = False

    @contextmanager
    def span(self, name: str, attributes: Attributes, headers: Iterable[Headers] = ()) -> Iterator[None]:
        """Nothing."""
        yield

    def close(self) -> None:
        """Nothing is left."""


class OtlpTracer:
    """Makes spans with OpenTelemetry's SDK."""

    enabled = True

    def __init__(self, provider: Any) -> None:
        """`provider` is a TracerProvider of the SDK."""
        self._provider = provider
        self._tracer = provider.get_tracer(SERVICE)

    @contextmanager
    def span(self, name: str, attributes: Attributes, headers: Iterable[Headers] = ()) -> Iterator[None]:
        """A span as long as the context; an exception that leaves it is told by its type alone."""
        from opentelemetry.trace import Status, StatusCode

        system = {"messaging.system": "kafka", **attributes}
        with self._tracer.start_as_current_span(
            name, attributes=system, links=_links(headers), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:  # its message may quote a text
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def close(self) -> None:
        """Send what is left, within the exporter's own time-out."""
        self._provider.shutdown()


def make_tracer(settings: Settings) -> Tracer:
    """The tracer that the settings ask for. Raises `SettingsError` where OpenTelemetry is not installed."""
    if settings.tracing_endpoint is None:
        return NoTracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(
            "tracing_endpoint needs OpenTelemetry: pip install 'koner-stream[tracing]', or unset it"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.tracing_endpoint)))
    return OtlpTracer(provider)


def _links(headers: Iterable[Headers]) -> list[Any]:
    from opentelemetry.trace import Link, SpanContext, TraceFlags

    links: list[Any] = []
    for one in headers:
        for name, value in one:
            found = _TRACEPARENT.fullmatch(value or b"") if name == "traceparent" else None
            if found and len(links) < MOST_LINKS:
                trace, parent, flags = (int(part, 16) for part in found.groups()[:3])
                links.append(Link(SpanContext(trace, parent, is_remote=True, trace_flags=TraceFlags(flags))))
    return links
