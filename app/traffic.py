"""Every request gets a number, a line in the log where it matters, and its place in the latency histogram.

Around the whole application, the guard included: what is refused is seen too. `X-Request-ID` of a proxy is kept when it
is a plain word; the same number is on every log line that the request causes and in its answer.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SLOW_S = 1.0
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def make_histogram(registry: CollectorRegistry) -> Histogram:
    return Histogram(
        "trainyard_http_request_duration_seconds",
        "From a request's head to the end of its answer; of an event stream to its first byte.",
        ("method", "route", "status"),
        buckets=BUCKETS_S,
        registry=registry,
    )


@dataclass
class Exchange:
    """One request and what became of it."""

    began: float = field(default_factory=time.perf_counter)
    status: int = 500  # nothing was answered yet: it has crashed
    streams: bool = False
    answered_s: float = 0.0

    def took_s(self) -> float:
        return self.answered_s if self.streams else time.perf_counter() - self.began


class TrafficMiddleware:
    """Numbers, logs and measures requests."""

    def __init__(self, app: ASGIApp, *, histogram: Histogram) -> None:
        self._app, self._histogram = app, histogram

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = Exchange()
        with logs.bind(request=request_id):
            try:
                await self._app(scope, receive, _watched(send, exchange, request_id))
            finally:
                self._record(scope, exchange)

    def _record(self, scope: Scope, exchange: Exchange) -> None:
        method, took_s = scope["method"], exchange.took_s()
        known = method if method in METHODS else "other"
        self._histogram.labels(known, route_of(scope), str(exchange.status)).observe(took_s)
        log.log(
            _level(method, exchange.status, took_s),
            "%s %s %d in %.0f ms",
            method[:16], scope["path"][:500], exchange.status, 1000 * took_s,
        )  # fmt: skip


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _watched(send: Send, exchange: Exchange, request_id: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("x-request-id", request_id)
            exchange.status = message["status"]
            exchange.streams = headers.get("content-type", "").startswith("text/event-stream")
            exchange.answered_s = time.perf_counter() - exchange.began
        await send(message)

    return sending


def route_of(scope: Scope) -> str:
    """The route's pattern, such as /runs/{run_id}: a path may name anything, and each would be a series of its own."""
    path = getattr(scope.get("route"), "path", None)
    if path:
        return str(path)
    return "/static" if scope["path"].startswith("/static/") else "none"


def _level(method: str, status: int, took_s: float) -> int:
    """What a person wants to see without asking: changes, refusals, what is slow. The rest is DEBUG."""
    if status >= 500 or took_s > SLOW_S:
        return logging.WARNING
    return logging.INFO if status >= 400 or method not in ("GET", "HEAD", "OPTIONS") else logging.DEBUG
