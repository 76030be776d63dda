"""Server-sent events from bytes, as the HTML standard (section 9.2.6) parses them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Message(NamedTuple):
    """One dispatched event; `id` is the newest id seen so far on the stream."""

    event: str
    data: str
    id: str


def read_messages(chunks: Iterable[bytes]) -> Iterator[Message]:
    """The messages of a stream, each as soon as its empty line has arrived.

    A message cut off is never given.
    """
    event, last_id = "", ""
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield Message(event or "message", "\n".join(data), last_id)
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    # Split by hand: `str.splitlines` also splits at U+2028 and its like, which a run's name may hold.
    rest, after_cr = b"", False
    for chunk in chunks:
        if after_cr and chunk.startswith(b"\n"):
            chunk, after_cr = chunk[1:], False
        if chunk:
            after_cr = chunk.endswith(b"\r")
        *lines, rest = (rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
