"""The web pages: `/` for people, `/metrics` for Prometheus, `/health` and `/ready` for the orchestrator.

Only these exist (and `/live.json`, which `/` reads); all of them only tell, none of them changes anything.
"""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web
from faust.web import View
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from worker.observe.summary import Status, Summary

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def views(
    status: Callable[[], Status], registry: CollectorRegistry, summary: Summary, *, bound_to_loopback: bool
) -> Mapping[str, type[View]]:
    """The pages by path."""
    page, policy = _live_page()

    async def index(_: View, __: web.Request) -> web.Response:
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers={_POLICY: policy})

    async def live_json(_: View, request: web.Request) -> web.Response:
        return _json(summary.tell(trusted=not bound_to_loopback or _addressed_to_loopback(request)))

    async def metrics(_: View, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        response = web.Response(body=encode(registry), headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def health(_: View, __: web.Request) -> web.Response:
        now = status()
        return _json({"alive": now.alive, "problems": [] if now.alive else list(now.problems)}, now.alive)

    async def ready(_: View, __: web.Request) -> web.Response:
        now = status()
        return _json({"ready": now.ready, "problems": list(now.problems)}, now.ready)

    pages = {"/": index, "/live.json": live_json, "/metrics": metrics, "/health": health, "/ready": ready}
    return {path: View.from_handler(page) for path, page in pages.items()}


@web.middleware
async def guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Keep every answer out of caches, frames and guesses about its type."""
    response = await handler(request)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


_POLICY = "Content-Security-Policy"


def _live_page() -> tuple[bytes, str]:
    """The page, and the policy that lets it run its own script and style and reach nothing but this server."""
    page = files("worker.observe").joinpath("live.html").read_text(encoding="utf-8")
    rules = ["default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "frame-ancestors 'none'"]
    for element in ("script", "style"):
        inline = re.findall(rf"<{element}>(.*?)</{element}>", page, flags=re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline)
        rules.append(f"{element}-src " + " ".join(f"'sha256-{digest}'" for digest in hashes))
    return page.encode(), "; ".join(rules)


def _addressed_to_loopback(request: web.Request) -> bool:
    """Whether the browser was told to go to this machine: a foreign page that rebinds its own name is not."""
    return (request.url.host or "") in LOOPBACK


def _json(value: Any, good: bool = True) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json", status=200 if good else 503)
