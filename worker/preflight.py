"""Answers what people ask before they start a run: a thread of the worker, and a process of its own that knows torch.

It looks for questions in the database a few times a second. The process starts with the first and ends when none has
come for a while, so that a worker that nobody asks has no second torch in memory. With the first question the worker's
slot is timed too, once.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from app import anatomies
from app.anatomies import Question
from app.db import Database
from app.errors import TrainyardError
from app.settings import ROOT
from worker.environment import trainer_environment

log = logging.getLogger(__name__)

LOOK_S = 0.2
ANSWER_S = 60.0  # with the import of torch, on a machine that is busy
IDLE_S = 300.0
PACE_S = 120.0


class Anatomist:
    """The process that knows what networks are: `python -m worker.anatomist`, while it is needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._used_at = 0.0

    def ask(self, question: Question) -> dict[str, Any] | None:
        """Its answer; None when it has none, or does not give it in time."""
        self._used_at = time.monotonic()
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = start("worker.anatomist", threads=1, gpu=False)
        line = self._exchange(self._process, json.dumps(question).encode() + b"\n")
        if not line.endswith(b"\n"):
            log.warning("preflight: no answer on %s", question.get("model"))
            self.close()
            return None
        found: dict[str, Any] | None = json.loads(line)
        return found

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        said, deadline = b"", time.monotonic() + ANSWER_S
        with suppress(BrokenPipeError):
            process.stdin.write(line)
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(process.stdout.fileno(), 1 << 20) if ready else b""
            if not piece:
                break
            said += piece
        return said

    def rest(self) -> None:
        """End the process when nobody has asked for a while."""
        if self._process is not None and time.monotonic() - self._used_at > IDLE_S:
            self.close()

    def close(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None


class Preflights:
    """The thread, from `start()` to `stop()`. `capacity` is what the worker's slots have: told with its presence."""

    def __init__(self, db: Database, capacity: dict[str, Any]) -> None:
        self.capacity = capacity
        self._db = db
        self._anatomist = Anatomist()
        self._timing: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preflight", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._anatomist.close()
        if self._timing is not None:
            end(self._timing)

    def _run(self) -> None:
        self._try(self._forget)
        while not self._stop.wait(LOOK_S):
            self._try(self._look)
            self._anatomist.rest()

    def _try(self, action: Any) -> None:
        try:
            action()
        except TrainyardError as error:
            log.debug("preflight: %s", error.message)  # the worker's other threads say it louder
        except Exception:
            log.exception("preflight: could not answer")

    def _forget(self) -> None:
        with self._db.begin() as s:
            anatomies.forget_answers(s)

    def _look(self) -> None:
        with self._db.read() as s:
            if not anatomies.is_anything_asked(s):
                return
        with self._db.begin() as s:
            question = anatomies.take_question(s)
        if question is None:
            return  # another worker was first
        if self._timing is None:
            threading.Thread(target=self._time, name="pace", daemon=True).start()
        found = self._anatomist.ask(question)
        with self._db.begin() as s:
            if found is None:
                anatomies.forget(s, question)  # who asked is told to try again
            else:
                anatomies.answer(s, question, found)

    def _time(self) -> None:
        """Measure how fast a slot computes, once; None is told when that cannot be known."""
        self._timing = start("worker.pace", threads=self.capacity["threads"], gpu=True)
        try:
            said, _ = self._timing.communicate(timeout=PACE_S)
            pace = json.loads(said)
        except (subprocess.TimeoutExpired, json.JSONDecodeError):
            log.warning("the slots' speed could not be measured; times of epochs are not estimated")
            end(self._timing)
            pace = None
        self.capacity = {**self.capacity, "pace": pace}


def start(module: str, *, threads: int, gpu: bool) -> subprocess.Popen[bytes]:
    """Such a process of ours, with a trainer's environment and below the trainings in priority."""
    env = trainer_environment(os.environ, threads)
    if not gpu:
        env["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=env,
        start_new_session=True,
        bufsize=0,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
