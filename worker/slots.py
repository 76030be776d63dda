"""The slots of a worker, each with a trainer that has imported torch already and waits for a run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from queue import Queue

from app.settings import ROOT
from worker.environment import trainer_environment
from worker.job import Job

WARM_AGAIN_S = 4.0  # importing torch takes seconds of CPU, which a run's first steps should not have to share


def count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def list_gpus() -> list[str]:
    """Names of the GPUs by `nvidia-smi`: torch must not be asked here, the worker never imports it."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    return [
        line.split(":", 1)[1].split(" (")[0].strip()
        for line in listed.stdout.splitlines()
        if line.startswith("GPU ")
    ]


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
    """`count` slots, one run at a time each, with warm trainers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.threads = max(1, count_cores() // count)
        self._free: Queue[int] = Queue()
        for index in range(count):
            self._free.put(index)
        self._warm: dict[int, TrainerProcess] = {}
        self._lock = threading.Lock()
        self._closed = False

    def acquire(self) -> int:
        return self._free.get()

    def release(self, index: int) -> None:
        self._free.put(index)

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
