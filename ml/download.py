"""Fetch the idx files of MNIST-like data sets from torchvision's mirrors, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from torchvision.datasets import MNIST

Progress = Callable[[str, float], None]  # what goes on, and how much of it is done (0..1)
TIMEOUT_S = 15
BLOCK_BYTES = 1 << 18


class DatasetUnavailable(ValueError):
    """The data set is neither on disk nor to be had; the message says what to do."""


class SourceFailed(Exception):
    """An address does not give the file; another one may."""


def ensure_files(kind: type[MNIST], root: Path, title: str, size_mb: int, progress: Progress | None) -> None:
    """Make every uncompressed idx file of `kind` exist under `root`, from a .gz beside it or from the
    mirrors.

    A file appears under its name only when it is whole and its MD5 matches, so that a broken download or two
    runs that download at the same time never leave half a file.

    Raises:
        DatasetUnavailable: the folder cannot be written, a .gz is damaged, or no mirror gives the file.
    """
    folder = root / kind.__name__ / "raw"
    missing = [
        (name, md5) for name, md5 in kind.resources if not (folder / name.removesuffix(".gz")).is_file()
    ]
    if not missing:
        return
    _make_writable(folder, title)
    done_bytes = 0

    def advance(count: int) -> None:
        nonlocal done_bytes
        done_bytes += count
        if progress is not None:
            progress(f"Downloading {title}", min(done_bytes / (size_mb * 1e6), 1.0))

    for name, md5 in missing:
        packed = folder / name
        data = packed.read_bytes() if packed.is_file() else _download(kind, name, md5, folder, title, advance)
        write_whole(folder / name.removesuffix(".gz"), _unpack(data, packed))


def _make_writable(folder: Path, title: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DatasetUnavailable(
            f"{title} is not in {folder}, and nothing can be written there ({error.strerror}). Make the "
            f"folder writable, or set TRAINYARD_DATASETS to one that is, or choose the dataset digits."
        ) from error


def _download(
    kind: type[MNIST], name: str, md5: str, folder: Path, title: str, advance: Callable[[int], None]
) -> bytes:
    """The file's compressed bytes from the first mirror that has them whole."""
    reasons = []
    for mirror in kind.mirrors:
        blocks = []
        try:
            for block in read_blocks(mirror + name):
                blocks.append(block)
                advance(len(block))
        except SourceFailed as error:
            reasons.append(f"{mirror}: {error}")
            continue
        data = b"".join(blocks)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() == md5:
            return data
        reasons.append(f"{mirror}: not the expected file (MD5 differs)")
    files = ", ".join(resource.removesuffix(".gz") for resource, _ in kind.resources)
    raise DatasetUnavailable(
        f"{title} could not be downloaded ({'; '.join(reasons)}). Put {files} (or .gz of them) in {folder}, "
        f"or set TRAINYARD_DATASETS to a folder that has {kind.__name__}/raw, or choose the dataset digits, "
        f"which needs no network."
    )


def read_blocks(url: str) -> Iterator[bytes]:
    """The bytes at `url` in blocks. Only its own errors become SourceFailed, never those of who iterates."""
    try:
        with urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310  torchvision's own addresses
            while block := response.read(BLOCK_BYTES):
                yield block
    except (OSError, HTTPException) as error:
        raise SourceFailed(str(error)) from error


def _unpack(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetUnavailable(
            f"{path} is damaged ({error}). Delete it and start the run again."
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """The file appears under its name only when all of it is on the disk. Raises: OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)  # a temporary file is 0600, and others may share the folder
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
