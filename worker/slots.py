"""The slots of a worker, each with a trainer that has imported torch already and waits for a run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from app.settings import ROOT
from worker.environment import trainer_environment
from worker.job import Job

WARM_AGAIN_S = 4.0  # importing torch takes seconds of CPU, which a run's first steps should not have to share
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


def list_gpus() -> list[str]:
    """Names of the GPUs that a trainer would see, by `nvidia-smi`: the worker never imports torch to ask."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    return read_gpus(listed.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def read_gpus(listed: str, visible: str | None) -> list[str]:
    """Names in the lines `GPU 0: NAME (UUID: GPU-...)`; those that CUDA_VISIBLE_DEVICES leaves, as CUDA reads it.

    It lists places or the beginnings of UUIDs, and ends at the first that there is not.
    """
    found = re.findall(r"^GPU (\d+): (.*) \(UUID: (\S+)\)", listed, re.MULTILINE)
    if visible is None:
        return [name for _, name, _ in found]
    kept = []
    for asked in filter(None, (part.strip() for part in visible.split(","))):
        name = next((n for place, n, uuid in found if asked == place or uuid.startswith(asked)), None)
        if name is None:
            break
        kept.append(name)
    return kept


class TrainerProcess:
    """An exec'd trainer, the leader of its own session. Its standard input stays open as long as we live."""

    def __init__(self, threads: int) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "worker.trainer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env=trainer_environment(os.environ, threads),
            start_new_session=True,
            bufsize=0,
        )

    def alive(self) -> bool:
        return self.popen.poll() is None

    def give(self, job: Job) -> None:
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):  # it died: its exit code tells
            self.popen.stdin.write(job.to_line())

    def signal(self, sig: signal.Signals) -> None:
        """To the trainer alone for SIGTERM, to its whole group for SIGKILL."""
        with suppress(ProcessLookupError):
            if sig == signal.SIGKILL:
                os.killpg(self.popen.pid, sig)
            else:
                os.kill(self.popen.pid, sig)

    def close(self) -> None:
        """End it, if it has not ended, and let go of its pipe."""
        self.signal(signal.SIGKILL)
        self.popen.wait()
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):
            self.popen.stdin.close()


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
        self._warm: dict[int, TrainerProcess] = {}
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
            waiting = self._warm.get(index)
            if not self._closed and (waiting is None or not waiting.alive()):
                self._warm[index] = TrainerProcess(self.threads)

    def take(self, index: int) -> TrainerProcess:
        """The slot's warm trainer, or a new one; the next is started a little later."""
        with self._lock:
            trainer = self._warm.pop(index, None)
        if trainer is not None and not trainer.alive():
            trainer.close()
            trainer = None
        later = threading.Timer(WARM_AGAIN_S, self.warm, [index])
        later.daemon = True
        later.start()
        return trainer or TrainerProcess(self.threads)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting = list(self._warm.values())
            self._warm.clear()
        for trainer in waiting:
            trainer.close()
