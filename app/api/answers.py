"""Large answers: a tag that tells whether they changed, a cache of their parts, and compression for who takes that."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Any

from fastapi import Request, Response
from pydantic_core import to_json

MIN_GZIP_BYTES = 4_096
CACHE_BYTES = 32 * 1024 * 1024
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "Nothing has changed since this `ETag`"}}
# Part of every tag: a new number where the same points are written in another way.
WRITTEN = 1


class AnswerCache:
    """Encoded parts of answers, the least lately used forgotten first. Safe to share between threads.

    A key names the revision of the run that a part tells of, so that nothing in here is ever wrong, only unused.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._parts: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            part = self._parts.get(key)
            if part is not None:
                self._parts.move_to_end(key)
            return part

    def put(self, key: Hashable, part: bytes) -> None:
        with self._lock:
            self._bytes += len(part) - len(self._parts.pop(key, b""))
            self._parts[key] = part
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._parts.popitem(last=False)[1])

    def __len__(self) -> int:
        return len(self._parts)


def make_tag(request: Request, revisions: Iterable[tuple[str, int]]) -> str:
    """A strong entity tag (RFC 9110, 8.8.3): equal only for the same question about runs that have not changed.

    Every write to a run, its points included, raises its revision. The coding is part of it, as the RFC asks.
    """
    known = (WRITTEN, request.url.path, request.url.query, _takes_gzip(request), sorted(revisions))
    return f'"{hashlib.blake2b(repr(known).encode(), digest_size=16).hexdigest()}"'


def unchanged(request: Request, tag: str) -> Response | None:
    """304 when the client holds what `tag` stands for."""
    held = request.headers.get("if-none-match", "")
    if tag in (one.strip().removeprefix("W/") for one in held.split(",")):
        return Response(status_code=304, headers=_headers(tag))
    return None


def answer_json(
    request: Request, tag: str, about: dict[str, object], name: str, parts: Iterable[bytes]
) -> Response:
    """`{...about, name: [parts]}`, of parts that are JSON already, with gzip where it is accepted and saves."""
    body = to_json(about)[:-1] + b',"' + name.encode() + b'":[' + b",".join(parts) + b"]}"
    headers = _headers(tag)
    if len(body) >= MIN_GZIP_BYTES and _takes_gzip(request):
        body = gzip(body)
        headers["content-encoding"] = "gzip"
    return Response(body, media_type="application/json", headers=headers)


def _headers(tag: str) -> dict[str, str]:
    """Kept by the browser, but asked for again each time: an answer of a running run is old at once."""
    return {"etag": tag, "cache-control": "private, no-cache", "vary": "accept-encoding"}


def _takes_gzip(request: Request) -> bool:
    return accepts_gzip(request.headers.get("accept-encoding", ""))


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header takes gzip (RFC 9110, 12.5.3)."""
    weights = {}
    for part in header.lower().split(","):
        name, _, weight = part.partition(";")
        weights[name.strip()] = weight.replace(" ", "")
    taken = weights.get("gzip", weights.get("*"))
    return taken is not None and taken.rstrip("0") not in ("q=", "q=0.")


def gzip(body: bytes) -> bytes:
    """Huffman coding alone: on base64 as small as level 6 and three times as fast, for numbers repeat no words."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(body) + packer.flush()
