"""One `trainyard up` for each data directory, held by an flock that the children's leashes share."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

PREDECESSOR_S = 45.0  # how long what a killed launcher left behind may take to end
TICK_S = 0.1


class Busy(Exception):
    """Another `trainyard up` has this data directory."""


@contextmanager
def lock_data_dir(data_dir: Path, stop: threading.Event, console: Console) -> Iterator[int]:
    """The descriptor that holds the lock; waits for the processes of a launcher that was killed.

    Raises: Busy when a living launcher has it, or when `stop` comes first.
    """
    descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, data_dir, stop, console)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, data_dir: Path, stop: threading.Event, console: Console) -> None:
    deadline = time.monotonic() + PREDECESSOR_S
    told = False
    while not stop.is_set():
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        owner = os.pread(descriptor, 32, 0).decode(errors="replace")
        if _alive(owner) or time.monotonic() > deadline:
            raise Busy(
                f"another `trainyard up` (process {owner or 'unknown'}) uses {data_dir}; "
                "stop it first, or choose another directory with --data-dir"
            )
        if not told:
            console.print("Waiting for the processes of an earlier `trainyard up` to end.", markup=False)
            told = True
        stop.wait(TICK_S)
    raise Busy("stopped while waiting for an earlier `trainyard up` to end")


def _alive(pid: str) -> bool:
    if not pid.isdecimal():
        return True  # it has the lock and is about to write its number
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
