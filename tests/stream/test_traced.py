"""The spans of a running pipeline, as a collector gets them."""

import asyncio
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from brokers import Produced
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import Stream, review, running


@pytest.fixture
def collector():
    """An OTLP collector of one path; yields its address and what it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            got.extend(span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", got
    server.shutdown()


def test_a_batch_is_traced_from_the_model_to_the_broker(embedded, collector):
    endpoint, got = collector
    options = {"idempotence": False, "session_timeout_seconds": 2.0, "tracing_endpoint": endpoint}
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def work():
        stream = await Stream(embedded.bootstrap_servers, options=options).create()
        await stream.produce_reviews([Produced(review(1), headers=(("traceparent", parent),))])
        async with running(stream.settings()):
            await stream.read_enriched(count=1)

    asyncio.run(work())
    assert {span.name for span in got} == {"process", "send"}
    assert {link.trace_id.hex() for span in got for link in span.links} == {"0af7651916cd43dd8448eb211c80319c"}
