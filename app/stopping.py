"""What a request is told that still waits when the process stops: uvicorn would answer a bare 500."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TrainyardError, Unavailable


class StoppingMiddleware:
    """503 with what to do, for requests that are cut off before they were answered.

    That happens to those that wait for a lock of the database, for longer than the process waits for them.
    """

    def __init__(self, app: ASGIApp, *, refuse: Callable[[Request, TrainyardError], Response]) -> None:
        self._app, self._refuse = app, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        async def sending(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if answered:
                raise
            error = Unavailable("the server is about to stop; try again in a moment")
            await self._refuse(Request(scope, receive), error)(scope, receive, send)
