"""Answers what people ask before they start a run: a thread of the worker, and a process of its own that knows torch.

It looks for questions in the database a few times a second. The process starts with the first and ends when none has
come for a while. How fast a slot of the worker is, is measured once: while it has nothing to do, or else with the first
question.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from app import anatomies
from app.anatomies import Question
from app.db import Database
from app.errors import TrainyardError
from worker.children import ANATOMIST, PACE, Child, Closing

log = logging.getLogger(__name__)

LOOK_S = 0.2
ANSWER_S = 60.0  # with the import of torch, on a machine that is busy
IDLE_S = 300.0
PACE_S = 120.0
SETTLED_S = 5.0  # a worker that has just begun may be given runs at once

Start = Callable[[str], Child]


class Anatomist:
    """The process that knows what networks are (`worker.anatomist`), while it is needed."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._process: Child | None = None
        self._used_at = 0.0

    def prepare(self) -> Child:
        """The process, started unless it is there. Raises: Closing."""
        self._used_at = time.monotonic()
        if self._process is None or not self._process.alive():
            self.close()
            self._process = self._start(ANATOMIST)
        return self._process

    def ask(self, question: Question) -> dict[str, Any] | None:
        """Its answer; None when it has none, or does not give it in time. Raises: Closing."""
        process = self.prepare()
        process.say(json.dumps(question).encode() + b"\n")
        line = process.hear(ANSWER_S)
        if not line.endswith(b"\n"):
            log.warning("preflight: no answer on %s", question.get("model"))
            self.close()
            return None
        found: dict[str, Any] | None = json.loads(line)
        return found

    def interrupt(self) -> None:
        """End an answer that takes long, from another thread."""
        process = self._process
        if process is not None:
            process.signal(signal.SIGKILL)

    def rest(self) -> None:
        """End the process when nobody has asked for a while."""
        if self._process is not None and time.monotonic() - self._used_at > IDLE_S:
            self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


class Preflights:
    """The thread, from `start()` to `stop()`. `capacity` is what the worker's slots have: told with its presence.

    Its processes are had from `begin`, by their role. `is_idle` is whether the worker trains nothing.
    """

    def __init__(
        self, db: Database, capacity: dict[str, Any], begin: Start, is_idle: Callable[[], bool]
    ) -> None:
        self.capacity = capacity
        self._db, self._begin, self._is_idle = db, begin, is_idle
        self._begun_at = time.monotonic()
        self._anatomist = Anatomist(begin)
        self._timing: threading.Thread | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preflight", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._anatomist.interrupt()
        for thread in (self._thread, self._timing):
            if thread is not None and thread.is_alive():
                thread.join(timeout=5)

    def _run(self) -> None:
        self._try(self._forget)
        while not self._stop.wait(LOOK_S):
            self._try(self._look)
            self._anatomist.rest()
            if self._is_idle() and time.monotonic() - self._begun_at > SETTLED_S:
                self._begin_timing()  # so that who asks first need not wait for it
        self._anatomist.close()

    def _try(self, action: Any) -> None:
        try:
            action()
        except Closing:
            log.debug("preflight: the worker ends")
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
        self._anatomist.prepare()  # first: a worker that ends takes no question
        with self._db.begin() as s:
            question = anatomies.take_question(s)
        if question is None:
            return  # another worker was first
        self._begin_timing()
        found = self._anatomist.ask(question)
        with self._db.begin() as s:
            if found is None:
                anatomies.forget(s, question)  # who asked is told to try again
            else:
                anatomies.answer(s, question, found)

    def _begin_timing(self) -> None:
        if self._timing is None:
            self._timing = threading.Thread(target=self._time, name="pace", daemon=True)
            self._timing.start()

    def _time(self) -> None:
        """How fast a slot computes, measured once; None is told when that cannot be known."""
        try:
            process = self._begin(PACE)
        except Closing:
            return
        said = process.hear(PACE_S)
        process.close()
        pace = json.loads(said) if said.endswith(b"\n") else None
        if pace is None:
            log.warning("the slots' speed could not be measured; times of epochs are not estimated")
        self.capacity = {**self.capacity, "pace": pace}
