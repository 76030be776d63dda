"""Who may ask what: host names, origins, the token, body sizes and response headers, around the whole application.

A page that someone visits must not be able to start code on their GPU. So a request must name a host that we answer to
(against DNS rebinding), an unsafe method must come from our own pages or from no page at all (against cross-site
requests), and beyond loopback a token is needed.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Forbidden, TooLarge, TrainyardError, Unauthorized
from app.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PUBLIC_PATHS = frozenset({"/healthz", "/login", "/language"})
SESSION_COOKIE = "trainyard_session"
SESSION_S = 30 * 24 * 3600
MAX_BODY_BYTES = 256 * 1024
MAX_METRICS_BYTES = 16 * 1024 * 1024

_CSP = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Plotly and Swagger UI write style attributes
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(settings: Settings) -> frozenset[str]:
    """The exact Host headers that we answer to; a configured name without a port is taken with any."""
    names = {f"{name}:{settings.port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    if settings.port == 80:
        names |= {"127.0.0.1", "localhost", "[::1]"}
    return frozenset(
        names | {name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip()}
    )


def make_session(token: str, at: float) -> str:
    """A signed cookie value that is good for 30 days and dies with the token."""
    expires = str(int(at + SESSION_S))
    return f"{expires}.{_sign(token, expires)}"


def _sign(token: str, text: str) -> str:
    return hmac.new(token.encode(), b"session:" + text.encode(), hashlib.sha256).hexdigest()


def session_valid(token: str, value: str, at: float) -> bool:
    expires, _, signature = value.partition(".")
    return (
        expires.isascii()
        and expires.isdigit()
        and int(expires) > at
        and hmac.compare_digest(signature.encode(), _sign(token, expires).encode())
    )


@dataclass(frozen=True)
class Guard:
    """The checks of one request, each an error with its remedy or nothing."""

    token: str
    hosts: frozenset[str]

    def check(self, method: str, scheme: str, path: str, headers: Headers) -> None:
        """Raises: Forbidden for a foreign host or origin; Unauthorized without the token."""
        host = headers.get("host", "").lower()
        if host not in self.hosts and host.rpartition(":")[0] not in self.hosts:
            raise _BadHost(
                f"this server does not answer to the host {host[:200]!r}; "
                "if it should, add the name to TRAINYARD_ALLOWED_HOSTS"
            )
        self._check_origin(method, scheme, host, path, headers)
        if self.token and path not in PUBLIC_PATHS and not path.startswith("/static/"):
            self._check_token(headers)

    @staticmethod
    def _check_origin(method: str, scheme: str, host: str, path: str, headers: Headers) -> None:
        site = headers.get("sec-fetch-site")
        if method in SAFE_METHODS:
            if path.startswith("/api/") and site not in (None, "same-origin", "none"):
                raise Forbidden("another site's page may not read this API")
            return
        if site not in (None, "same-origin", "none"):
            raise Forbidden("another site's page may not do this; use the dashboard or a script")
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{scheme}://{host}":
            raise Forbidden("the request comes from another origin; use the dashboard or a script")

    def _check_token(self, headers: Headers) -> None:
        authorization = headers.get("authorization", "")
        kind, _, given = authorization.partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode()):
            return
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(SESSION_COOKIE)
        except CookieError:
            cookie = None
        if cookie is None or not session_valid(self.token, cookie.value, time.time()):
            raise Unauthorized("send the token as `Authorization: Bearer ...`, or sign in at /login")


class _BadHost(Forbidden):
    status, code = 400, "bad_host"


class SecurityMiddleware:
    """Applies the guard, the body limit and the headers to every request, whatever route it is for."""

    def __init__(self, app: ASGIApp, *, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # we have no WebSockets
        headers = Headers(scope=scope)
        path: str = scope["path"]
        limit = MAX_METRICS_BYTES if path.endswith("/metrics") else MAX_BODY_BYTES
        try:
            self._guard.check(scope["method"], scope["scheme"], path, headers)
            _check_length(headers, limit)
        except TrainyardError as error:
            await _refusal(error, path, headers)(scope, receive, _with_headers(send))
            return
        await self._app(scope, _limited(receive, limit), _with_headers(send))


def _refusal(error: TrainyardError, path: str, headers: Headers) -> Response:
    if isinstance(error, Unauthorized) and "text/html" in headers.get("accept", ""):
        return RedirectResponse(f"/login?next={quote(path, safe='')}", 303)
    response = JSONResponse(error.payload(), error.status)
    if isinstance(error, Unauthorized):
        response.headers["www-authenticate"] = "Bearer"
    return response


def _check_length(headers: Headers, limit: int) -> None:
    length = headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit // 1024} kB; send it in parts")


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive` that counts bytes, since a chunked body announces no length."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:  # FastAPI, which reads, lets only this kind of error through
            raise HTTPException(413, _too_large(limit).message)
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def needs_token(host: str, token: str) -> str | None:
    """Why this address may not be bound, or None: beyond loopback anyone could start code on this machine."""
    if is_loopback(host) or token:
        return None
    return (
        f"refusing to listen on {host} without a token: anyone who reaches it could start code on this machine. "
        "Set TRAINYARD_TOKEN to a long random text "
        "(`python -c 'import secrets; print(secrets.token_urlsafe(32))'` prints one), "
        "or use --host 127.0.0.1"
    )


def weak_token(tokens: Sequence[str]) -> str | None:
    """Why a token is too weak to use, or None."""
    if any(token and len(token) < 16 for token in tokens):
        return "TRAINYARD_TOKEN is too short to be safe: use at least 16 random characters"
    return None
