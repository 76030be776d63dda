"""Disks that fill up and get room again, under processes that run."""

from __future__ import annotations

import errno
import resource
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SMALL_MB = 40


def limit_files(processes: Iterable[psutil.Process], size_bytes: int = resource.RLIM_INFINITY) -> None:
    """No file may grow beyond `size_bytes` in these processes and those that they start: 0 is a full disk, to them.

    Needs no rights, and works for root too (setrlimit(2), RLIMIT_FSIZE). A write beyond it ends with EFBIG.
    """
    for process in processes:
        _, most = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (size_bytes, most))


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """A file system of its own in memory; where that may be had, see `can_mount`."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_MB}m,mode=700", "trainyard-test", at], check=True
    )
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def can_mount() -> bool:
    """Whether we may: root may, except in most containers."""
    with tempfile.TemporaryDirectory() as at:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "trainyard-test", at]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        if mounted:
            subprocess.run(["umount", at], check=True)
    return mounted


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 8, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return path
