"""The guard, body sizes and response headers, around the whole application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import quote

from starlette._utils import get_route_path
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access import Access, Caller
from app.actor import asking
from app.errors import TooLarge, TrainyardError, Unauthorized
from app.guard import Asked, BadHost, Guard, TooManyGuesses

CALLER = "trainyard.caller"  # in the scope of a request: who asks, see app.access
STREAM_CHECK_S = 1.0  # how soon an open event stream of a revoked token ends
MAX_NEXT = 1_800  # characters of an address that signing in comes back to
MAX_BODY_BYTES = 256 * 1024
MAX_METRICS_BYTES = 16 * 1024 * 1024
BODY_S = 30.0  # for the next part of a body to come

# The two <style> elements that Plotly 7.1 adds: one without text, whose rules it sets through the object model, and
# that of its maps. Of another version they may differ: charts look the same then, and tests/security tells.
PLOTLY_STYLES = (
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' "
    "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='"
)
_CSP = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        f"style-src 'self' {PLOTLY_STYLES}",
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


class SecurityMiddleware:
    """Applies the guard, the body limit and the headers to every request, whatever route it is for.

    `refuse` makes the answer to who is not let in, a page or JSON.
    """

    def __init__(
        self, app: ASGIApp, *, guard: Guard, refuse: Callable[[Request, TrainyardError], Response]
    ) -> None:
        self._app, self._guard, self._refuse = app, guard, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # we have no WebSockets
        asked = _read(scope)
        limit = MAX_METRICS_BYTES if asked.path.endswith("/metrics") else MAX_BODY_BYTES
        sending = _with_headers(send)
        scope[CALLER] = None
        try:
            caller = await self._admit(asked)
            scope[CALLER] = caller  # before it may be refused: the page of a refusal tells them who they are
            self._guard.check_scope(asked, caller)
            _check_length(asked.headers, limit)
        except TrainyardError as error:
            await self._refusal(error, Request(scope), asked)(scope, receive, sending)
            return
        if caller is not None:
            asking.set(caller.name)
        if caller is not None and asked.path.endswith("/events"):
            await _while_good(self._guard.access, caller, self._app, scope, receive, sending)
        else:
            await self._app(scope, _limited(receive, limit), sending)

    async def _admit(self, asked: Asked) -> Caller | None:
        if not self._guard.access.is_loaded and not asked.is_public:
            await run_in_threadpool(self._guard.access.refresh)
        return self._guard.admit(asked)

    def _refusal(self, error: TrainyardError, request: Request, asked: Asked) -> Response:
        if isinstance(error, BadHost):  # a page would ask for its parts at the same wrong name
            return JSONResponse(error.payload(), error.status)
        if isinstance(error, Unauthorized) and "text/html" in asked.headers.get("accept", ""):
            return RedirectResponse(_login_url(request), 303)
        response = self._refuse(request, error)
        if isinstance(error, Unauthorized):
            response.headers["www-authenticate"] = "Bearer"
        if isinstance(error, TooManyGuesses):
            response.headers["retry-after"] = str(error.retry_s)
        return response


def _read(scope: Scope) -> Asked:
    # The path as the router takes it, by its own function: what is guarded is what is then served.
    client = scope.get("client")
    return Asked(
        scope["method"],
        scope["scheme"],
        get_route_path(scope),
        client[0] if client else "",
        Headers(scope=scope),
    )


def _login_url(request: Request) -> str:
    """The sign-in page, which comes back to this address."""
    prefix = request.scope.get("root_path", "").rstrip("/")
    here = prefix + get_route_path(request.scope)
    query = f"?{request.url.query}" if request.url.query and request.method == "GET" else ""
    target = here + query if len(here + query) <= MAX_NEXT else here
    return f"{prefix}/login?next={quote(target, safe='')}"


async def _while_good(
    access: Access, caller: Caller, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve a stream until its token is revoked or expires: then the client seems to be gone, and the answer ends."""
    ended = False

    async def watched() -> Message:
        nonlocal ended
        message = asyncio.ensure_future(receive())
        try:
            while not ended:
                done, _pending = await asyncio.wait({message}, timeout=STREAM_CHECK_S)
                if done:
                    return message.result()
                ended = not access.still_good(caller, time.time())
            return {"type": "http.disconnect"}
        finally:
            message.cancel()

    await app(scope, watched, send)
    if ended:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _check_length(headers: Headers, limit: int) -> None:
    length = headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit // 1024} kB; send it in parts")


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive` that counts bytes, since a chunked body announces no length, and waits for the next BODY_S at most."""
    seen, whole = 0, False

    async def limited() -> Message:
        nonlocal seen, whole
        if whole:  # then it waits for the client to go, which may take as long as it likes
            return await receive()
        try:
            async with asyncio.timeout(BODY_S):
                message = await receive()
        except TimeoutError:
            raise HTTPException(
                408, "the rest of the body did not come; send it again, all at once"
            ) from None
        whole = not message.get("more_body", False)
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
