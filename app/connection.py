"""HTTP over one connection, bounded: who never ends the head of a request, sends a huge one, or does not read the
answer is sent away.

uvicorn waits for the rest of a head for ever and keeps all of it, and as long for a client that reads nothing; and
every connection counts against the number that it takes: some hundreds of slow ones would keep everybody else out.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0
UNREAD_S = 60.0  # in which a client has to read something of what waits for it; it may come back for the rest
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
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        self._is_read()
        super().resume_writing()

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

    def _await_reading(self) -> None:
        self._unread = self.loop.call_later(UNREAD_S, self._look_whether_read, self._waiting())

    def _look_whether_read(self, waiting: int) -> None:
        if self._waiting() < waiting:
            self._await_reading()
        else:
            self.transport.abort()  # closing would wait for the client, as long as its system keeps the connection

    def _waiting(self) -> int:
        """Bytes that the client has not acknowledged, ours and the kernel's: they only shrink while writing pauses."""
        kept = array("i", [0])
        with suppress(
            OSError
        ):  # a system that does not tell; the client has to read enough for us to go on, then
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, kept)
        return kept[0] + self.transport.get_write_buffer_size()

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
