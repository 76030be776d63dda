"""Python loads this at its start in the workers of the fault tests, and in their trainers.

STEP_S is how long a step takes at least, in seconds: a device of a known, modest speed. SABOTAGE, if not empty, is
"act@step" or "act@step once": what a trainer does to itself before that step, each time or the first time alone. The
loop asks for the learning rate of each step, so that is where both come in; the arithmetic is untouched.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import NoReturn

import ml.schedules

_honest = ml.schedules.learning_rate
_step_s = float(os.environ["STEP_S"])
_act, _, _when = os.environ["SABOTAGE"].partition("@")
_step, _, _once = _when.partition(" ")
_done = Path(os.environ["TRAINYARD_DATA_DIR"]) / "sabotaged"
_ROOM_BYTES = 128 << 20


def learning_rate(schedule: str, peak: float, done: int, *more: int) -> float:
    if _act and done + 1 == int(_step) and not (_once and _done.exists()):
        _done.touch()
        {"abort": os.abort, "hang": _hang, "memory": _take_memory}[_act]()
    time.sleep(_step_s)
    return _honest(schedule, peak, done, *more)


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
