"""Validation images on disk, for the pages: a trainer writes a data set's once, the web process maps the file.

One file a validation set, named by its digest: a numpy array [N, H, W, C] of uint8, C 1 or 3. The digest is of the data
themselves, so a file never changes. A web process on another host than the worker may have none: pages do without.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.folders import find_file

Pixels = NDArray[np.uint8]


def save_images(folder: Path, val_digest: str, read: Callable[[], Pixels]) -> None:
    """Write the images unless they are there: whole or not at all, for the owner alone.

    Raises: OSError, when the disk does not take them.
    """
    path = folder / f"{val_digest}.npy"
    if path.exists():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A temporary file has mode 0600 from the start.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}.", delete=False) as file:
        try:
            np.save(file, np.ascontiguousarray(read()), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def has_images(folder: Path, val_digest: str) -> bool:
    return find_file(folder, "", f"{val_digest}.npy") is not None


def read_image(folder: Path, val_digest: str, index: int) -> Pixels | None:
    """One image [H, W, C]; None where the file or the index is not there."""
    found = find_file(folder, "", f"{val_digest}.npy")
    if found is None:
        return None
    try:
        images = _map(found.path, found.status.st_mtime_ns)
    except (OSError, ValueError):
        return None
    return images[index] if 0 <= index < len(images) else None


@lru_cache(maxsize=8)
def _map(path: Path, _changed_at: int) -> Pixels:
    images: Pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"{path.name} holds no images")
    return images


def to_png(image: Pixels) -> bytes:
    """A PNG (ISO/IEC 15948) of an image [H, W, C]: 8 bits a sample, grey or RGB, rows unfiltered."""
    height, width, channels = image.shape
    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = image.reshape(height, -1)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
