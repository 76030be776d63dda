"""HTTP over one connection, bounded: who never ends the head of a request, or sends a huge one, is sent away.

uvicorn waits for the rest of a head for ever and keeps all of it, and every connection counts against the number that
it takes: some hundreds of slow ones would keep everybody else out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0
MAX_HEAD_BYTES = 64 * 1024  # an event stream's Last-Event-ID may have 20,000
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b"
)
TOO_LARGE = (
    b'{"error":{"code":"too_large","message":"the head of the request is over 64 kB; ask for less at once"}}'
)


class BoundedProtocol(HttpToolsProtocol):
    """Between two requests uvicorn's own keep-alive time counts."""

    _in_head = True
    _heads = 0  # that have come whole
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head, heads = self._in_head, self._heads
        if was_in_head:
            self._await_head()
        super().data_received(data)
        if was_in_head and self._in_head and self._heads == heads:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(REFUSAL % (len(TOO_LARGE), TOO_LARGE))
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._heads += 1
        self._head_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def _await_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
