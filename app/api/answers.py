"""Large answers: compressed for who takes that, and told apart by an entity tag."""

from __future__ import annotations

import zlib

from fastapi import Request, Response

MIN_GZIP_BYTES = 4_096


def answer_json(request: Request, body: bytes) -> Response:
    """The body as JSON, with gzip where it is accepted and saves something."""
    headers = {"cache-control": "private, no-cache", "vary": "accept-encoding"}
    if len(body) >= MIN_GZIP_BYTES and accepts_gzip(request.headers.get("accept-encoding", "")):
        body = gzip(body)
        headers["content-encoding"] = "gzip"
    return Response(body, media_type="application/json", headers=headers)


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
