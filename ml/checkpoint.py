"""Write a snapshot's state whole or not at all; read it back only if it is the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch


class CorruptCheckpoint(ValueError):
    """The file is missing, cut short or not the one that was saved."""


def save(path: Path, state: dict[str, Any]) -> str:
    """Write `state` (tensors, numbers, strings, lists and dictionaries of them) to `path`; return its SHA-256
    in hex.

    At any instant `path` is either what it was or the whole new file: temporary file, fsync, rename, fsync of
    the folder.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    _sync_folder(path.parent)
    return hashlib.sha256(data).hexdigest()


def load(path: Path, sha256: str) -> dict[str, Any]:
    """The state that `save` wrote to `path` and answered `sha256` for; no code in the file is ever run.

    Raises:
        CorruptCheckpoint: the file is missing or its bytes are others.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptCheckpoint(f"checkpoint {path.name} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CorruptCheckpoint(f"checkpoint {path.name} is damaged: its SHA-256 is {found}, not {sha256}")
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
