"""What a run answered on its validation images, packed small and read back. Pure numpy.

A file is MAGIC, the length of a header (uint32), the header as JSON, and one zlib stream; all little-endian. The header
has `kind`, `version`, `n` (images), `classes`, `val_digest` (of the whole validation set that the images are from) and
`columns`, a list of [name, dtype]: the stream holds the columns one after another, n numbers each. Two kinds:

- `labels`, once a run: `label`, the images' true classes, and `index`, their places in the validation set; without
  `index` they are 0, 1, 2, ...
- `predictions`, once an evaluation: `offset` = (predicted - label) mod classes, which is 0 where the run is right and
  so packs to almost nothing; and `doubt` = round(255 sqrt(1 - confidence)), the confidence to 0.4 points, and to
  0.01 where it is near 1, so that the surest mistakes can be told apart.

N images, K classes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"TRAINYRD"
MEDIA_TYPE = "application/vnd.trainyard.predictions"
LABELS_NAME = "validation-labels"
VERSION = 1
MAX_IMAGES = 10_000_000  # a damaged header must not ask for all memory


class Unreadable(ValueError):
    """The bytes are cut short, damaged or of a version that this code does not know."""


@dataclass(frozen=True)
class Labels:
    """The images that a run is validated on: index [N] int64 in the set `val_digest`, label [N] int64."""

    val_digest: str
    classes: int
    index: NDArray[np.int64]
    label: NDArray[np.int64]

    def pack(self) -> bytes:
        columns = {"label": self.label.astype(_small(self.classes))}
        if not np.array_equal(self.index, np.arange(len(self.index))):
            columns["index"] = self.index.astype("<u4")
        return _pack("labels", self.val_digest, self.classes, columns)


@dataclass(frozen=True)
class Answers:
    """One evaluation: predicted [N] int64 and confidence [N] float32 in 0..1, in the order of the labels."""

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]

    def pack(self, labels: Labels) -> bytes:
        offset = (self.predicted - labels.label) % labels.classes
        # A net whose logits are no numbers is sure of nothing.
        sure = np.nan_to_num(np.asarray(self.confidence, np.float64)).clip(0, 1)
        columns = {
            "offset": offset.astype(_small(labels.classes)),
            "doubt": np.rint(255 * np.sqrt(1 - sure)).astype("u1"),
        }
        return _pack("predictions", labels.val_digest, labels.classes, columns)


def predictions_name(step: int) -> str:
    return f"predictions-{step:06d}"


def read_labels(data: bytes) -> Labels:
    """Raises: Unreadable."""
    header, columns = _unpack(data, "labels", ("label",))
    index = columns.get("index", np.arange(header["n"]))
    return Labels(header["val_digest"], header["classes"], index, columns["label"])


def read_answers(data: bytes, labels: Labels) -> Answers:
    """Raises: Unreadable, also when the answers are for other images than `labels`."""
    header, columns = _unpack(data, "predictions", ("offset", "doubt"))
    of = (header["val_digest"], header["classes"], header["n"])
    if of != (labels.val_digest, labels.classes, len(labels.label)):
        raise Unreadable("the predictions are for other images than the labels")
    confidence = (1 - (columns["doubt"] / 255) ** 2).astype(np.float32)
    return Answers((labels.label + columns["offset"]) % labels.classes, confidence)


def _small(classes: int) -> str:
    """The smallest dtype that holds a class."""
    return "u1" if classes <= 256 else "<u2"


def _pack(kind: str, val_digest: str, classes: int, columns: Mapping[str, NDArray[Any]]) -> bytes:
    header = {
        "kind": kind,
        "version": VERSION,
        "n": len(next(iter(columns.values()))),
        "classes": classes,
        "val_digest": val_digest,
        "columns": [[name, column.dtype.str] for name, column in columns.items()],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    stream = zlib.compress(b"".join(column.tobytes() for column in columns.values()), 6)
    return MAGIC + struct.pack("<I", len(text)) + text + stream


def _unpack(
    data: bytes, kind: str, names: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, NDArray[np.int64]]]:
    header, start = _read_header(data, kind)
    found: dict[str, NDArray[np.int64]] = {}
    try:
        dtypes = [(name, np.dtype(code)) for name, code in header["columns"]]
        size = sum(dtype.itemsize for _, dtype in dtypes) * header["n"]
        stream = zlib.decompressobj()
        raw = stream.decompress(data[start:], size + 1)
    except (zlib.error, KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"the {kind} are damaged: {error}") from error
    if len(raw) != size or not stream.eof:
        raise Unreadable(f"the {kind} are damaged: {len(raw)} bytes where {size} belong")
    at = 0
    for name, dtype in dtypes:
        found[name] = np.frombuffer(raw, dtype, header["n"], at).astype(np.int64)
        at += dtype.itemsize * header["n"]
    if not set(names) <= found.keys():
        raise Unreadable(f"the {kind} lack the columns {', '.join(set(names) - found.keys())}")
    return header, found


def _read_header(data: bytes, kind: str) -> tuple[dict[str, Any], int]:
    """The checked header, and where the stream begins."""
    start = len(MAGIC) + 4
    try:
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError("they do not begin as they should")
        end = start + struct.unpack_from("<I", data, len(MAGIC))[0]
        header = json.loads(data[start:end])
        version, n, classes = header["version"], int(header["n"]), int(header["classes"])
        fits = header["kind"] == kind and 0 < n <= MAX_IMAGES and 0 < classes <= 65_536
        fits = fits and isinstance(header["val_digest"], str)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"the {kind} are damaged: {error}") from error
    if version != VERSION or not fits:
        raise Unreadable(f"the {kind} have another format (version {version}); this one reads {VERSION}")
    return header, end
