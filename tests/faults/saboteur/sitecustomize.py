"""Python loads this at its start in a worker that a test sabotages, and in the worker's trainers.

SABOTAGE is "act@step" or "act@step once": what a trainer does to itself before that step, each time or the first time
alone. The loop asks for every step's learning rate, so that is where the act comes in.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import NoReturn

import ml.schedules

_honest = ml.schedules.learning_rate
_act, _, _when = os.environ["SABOTAGE"].partition("@")
_step, _, _once = _when.partition(" ")
_done = Path(os.environ["TRAINYARD_DATA_DIR"]) / "sabotaged"
_ROOM_BYTES = 128 << 20


def learning_rate(schedule: str, peak: float, done: int, total: int) -> float:
    if done + 1 == int(_step) and not (_once and _done.exists()):
        _done.touch()
        {"abort": os.abort, "hang": _hang, "memory": _take_memory}[_act]()
    return _honest(schedule, peak, done, total)


def _hang() -> NoReturn:
    """The loop stands still; the thread that renews the lease does not."""
    while True:
        time.sleep(60)


def _take_memory() -> NoReturn:
    """Allocate until the system refuses."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ROOM_BYTES,) * 2)
    hoard = []
    while True:
        hoard.append(bytearray(1 << 20))


ml.schedules.learning_rate = learning_rate
