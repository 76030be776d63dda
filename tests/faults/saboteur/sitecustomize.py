"""Python loads this at its start in the workers of the fault tests and in their trainers: a copy beside `plan.json`.

`step_s` of the plan is how long a step takes at least, in seconds: a device of a known, modest speed. `sabotage`, if it
is not empty, is "act@step" or "act@step once": what a trainer does to itself before that step, each time or the first
time alone; "act/1@step": what rank 1 of several does. The loop asks for the learning rate of each step, so that is
where both come in; the arithmetic stays. Workers see a host of one core, so that a trainer has one thread: several wait
for each other on a busy machine.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import NoReturn

import ml.schedules

_here = Path(__file__).parent
_plan = json.loads((_here / "plan.json").read_text())
_honest = ml.schedules.learning_rate
_act, _, _when = _plan["sabotage"].partition("@")
_step, _, _once = _when.partition(" ")
_act, _, _rank = _act.partition("/")
_done = _here / "done"
_ROOM_BYTES = 128 << 20


def learning_rate(schedule: str, peak: float, done: int, total: int, warmup: int = 0) -> float:
    mine = _rank in ("", os.environ.get("RANK", "0"))
    if _act and mine and done + 1 == int(_step) and not (_once and _done.exists()):
        _done.touch()
        _ACTS[_act]()
    time.sleep(_plan["step_s"])
    return _honest(schedule, peak, done, total, warmup)


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


def _ask_too_much() -> None:
    """More than any machine has: torch refuses at once."""
    import torch

    torch.empty(1 << 60, dtype=torch.uint8)


def _mistake() -> NoReturn:
    raise KeyError("a mistake")


def _break_gpu() -> NoReturn:
    """As a GPU whose memory has failed; what CUDA says goes on for some lines."""
    import torch

    raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nSearch for `cudaError...")


_ACTS = {
    "abort": os.abort,
    "hang": _hang,
    "memory": _take_memory,
    "tensor": _ask_too_much,
    "mistake": _mistake,
    "ecc": _break_gpu,
}
ml.schedules.learning_rate = learning_rate
os.sched_getaffinity = lambda _pid: {0}
