"""The slots of a worker, each with a trainer that has imported torch already and waits for a run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from worker.children import CAN_FORK, TRAINER, Child, Closing, ForkServer, StartedChild

WARM_AGAIN_S = (
    4.0  # what imports torch itself takes seconds of CPU, which a run's first steps should not share
)
LOOK_S = 0.5


def count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_slots(gpus: int, cores: int) -> int:
    """One a GPU. Without one two: two runs with half of the cores each train more than one after the other
    (benchmarks/slots.py); on one core, one."""
    return gpus or min(2, cores)


def divide_threads(cores: int, slots: int) -> int:
    """How many threads a run gets. More than its share and the runs' threads wait for each other, spinning."""
    return max(1, cores // slots)


class Gpu(NamedTuple):
    """One that a trainer sees; `uuid` is that of the whole GPU, and `slice_gb` the memory of a part of it (MIG)."""

    uuid: str
    name: str
    slice_gb: int | None = None


def list_gpus() -> list[Gpu]:
    """The GPUs that a trainer would see, by `nvidia-smi`: the worker never imports torch to ask."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    return read_gpus(listed.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def read_gpus(listed: str, visible: str | None) -> list[Gpu]:
    """Those in the lines `GPU 0: NAME (UUID: GPU-...)` that CUDA_VISIBLE_DEVICES leaves, as CUDA reads it.

    It lists places or the beginnings of UUIDs, and ends at the first that there is not. Below a GPU that is divided
    stand its slices, `MIG 3g.20gb Device 0: (UUID: MIG-...)`; of those CUDA shows a process one alone: that which is
    named first, else the GPU's first (NVIDIA's MIG user guide, "Device Enumeration").
    """
    gpus: dict[str, Gpu] = {}  # by place
    slices: dict[str, Gpu] = {}  # by UUID
    for line in listed.splitlines():
        if whole := re.match(r"GPU (\d+): (.*) \(UUID: (\S+)\)", line):
            place, parent = whole[1], Gpu(whole[3], whole[2])
            gpus[place] = parent
        elif gpus and (part := re.match(r"\s+MIG (\S*?(\d+)gb\S*)\s.*\(UUID: (\S+)\)", line)):
            slices[part[3]] = first = Gpu(parent.uuid, f"{parent.name} MIG {part[1]}", int(part[2]))
            if gpus[place] is parent:
                gpus[place] = first
    if visible is None:
        return list(gpus.values())
    kept: list[Gpu] = []
    for asked in filter(None, (part.strip() for part in visible.split(","))):
        if asked.startswith("MIG-") and not kept:
            return [gpu for uuid, gpu in slices.items() if uuid.startswith(asked)][:1]
        gpu = gpus.get(asked) or next((gpu for gpu in gpus.values() if gpu.uuid.startswith(asked)), None)
        if gpu is None:
            break
        kept.append(gpu)
    return kept


class Slots:
    """`count` slots with warm trainers. A run takes one, or as many as the GPUs that it trains on.

    Slots beyond the number of GPUs share them in turn: slot `i` has GPU `i % GPUs`.
    """

    def __init__(self, count: int, gpus: int = 0) -> None:
        self.count = count
        self.gpus = min(count, gpus)  # the most that one run can have
        self.threads = divide_threads(count_cores(), count)
        self._all_gpus = gpus
        self._free = set(range(count))
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()
        self._warm: dict[int, Child] = {}
        self._server: ForkServer | None = None
        self._lock = threading.Lock()
        self._closed = False

    def count_needed(self, spec: Mapping[str, Any]) -> int | None:
        """How many slots a run with this stored spec takes here; None where it cannot be trained here."""
        devices, device = int(spec.get("devices", 1)), spec.get("device")
        if device == "cuda" and devices > self.gpus:
            return None
        return devices if device != "cpu" and devices <= self.gpus else 1

    def acquire(self, count: int, leaving: threading.Event) -> list[int]:
        """So many free slots, each with a GPU of its own where there are several; none when we leave before.

        First come, first served: a run that needs many is not passed by those that need one.
        """
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while not leaving.is_set():
                    chosen = self._choose(count) if self._waiting[0] is ticket else []
                    if chosen:
                        self._free.difference_update(chosen)
                        return chosen
                    self._changed.wait(LOOK_S)
                return []
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _choose(self, count: int) -> list[int]:
        if count == 1:
            return sorted(self._free)[:1]
        of_gpu = {slot % self._all_gpus: slot for slot in sorted(self._free, reverse=True)}
        return sorted(of_gpu.values())[:count] if len(of_gpu) >= count else []

    def release(self, slots: Sequence[int]) -> None:
        with self._changed:
            self._free.update(slots)
            self._changed.notify_all()

    def warm(self, index: int) -> None:
        """Start the slot's next trainer, unless it waits already."""
        with self._lock:
            if not self._closed and self._waiting_trainer(index) is None:
                self._warm[index] = self._start(TRAINER)

    def take(self, index: int) -> Child:
        """The slot's warm trainer, or a new one; the next is started a little later."""
        with self._lock:
            trainer = self._waiting_trainer(index) or self._start(TRAINER)
            self._warm.pop(index, None)
        later = threading.Timer(WARM_AGAIN_S, self.warm, [index])
        later.daemon = True
        later.start()
        return trainer

    def _waiting_trainer(self, index: int) -> Child | None:
        """The slot's, if it lives; one that has died is let go of."""
        trainer = self._warm.get(index)
        if trainer is None or trainer.alive():
            return trainer
        self._warm.pop(index).close()
        return None

    def start(self, role: str) -> Child:
        """A process for something else than a run, with a slot's threads. Raises: Closing."""
        with self._lock:
            if self._closed:
                raise Closing
            return self._start(role)

    def _start(self, role: str) -> Child:
        if not CAN_FORK:
            return StartedChild(role, self.threads)
        if self._server is None or not self._server.alive:
            self._server = ForkServer(self.threads)
        return self._server.fork(role)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting = list(self._warm.values())
            self._warm.clear()
        if self._server is not None:
            self._server.close()
        for trainer in waiting:
            trainer.close()
