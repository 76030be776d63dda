"""Ends a trainer that stands still: a kernel that never returns, a lock, a file system that is gone.

Its reporter would keep the lease for ever. Whatever it is, the next attempt may do better, and after three nobody
waits any more. The stacks of all threads go to the run's log.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time

from worker.reporter import Reporter
from worker.trainer_exit import EXIT_STALLED

log = logging.getLogger(__name__)

LOOK_S = 1.0


class Stall:
    """Watches from `start()` on; whoever works calls `beat()` with each thing done."""

    def __init__(self, reporter: Reporter, stall_s: float) -> None:
        self._reporter, self._stall_s = reporter, stall_s
        self._beat_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="stall", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat(self) -> None:
        self._beat_at = time.monotonic()

    def _run(self) -> None:
        tick = threading.Event()
        while not tick.wait(LOOK_S):
            if self._reporter.is_stuck():
                self.beat()  # the database is away, and whoever works may be waiting for it
            stood_s = time.monotonic() - self._beat_at
            if stood_s > self._stall_s:
                log.error("nothing has been done for %.0f s; these are the stacks", stood_s)
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                os._exit(EXIT_STALLED)
