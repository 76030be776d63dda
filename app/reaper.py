"""Returns abandoned runs to the queue and sends forgotten ones again, once a second.

Runs in every web process and every worker at once: each action is a compare-and-set.
"""

from __future__ import annotations

import logging
import time

from app import queue, runs
from app.db import Database
from app.settings import Settings

log = logging.getLogger(__name__)

REPUBLISH_S = 15.0
BUSY_S = 0.5  # a write that waits for longer than this says that workers wait too
NEVER_S = 1e9


class Reaper:
    """What has to be done each second, by a Ticker; it remembers when it last was."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db, self._settings = db, settings
        self._last_tick = time.time()

    def tick(self) -> None:
        """Give slept-through leases one more term; otherwise reap, then publish what was forgotten.

        A tick that fails counts as slept: while the database was away, no worker could renew its lease. So does one
        that had to wait to write: the worker whose lease has expired may be waiting just behind.
        """
        slept_s = time.time() - self._last_tick
        with self._db.read() as s:
            due = runs.has_expired(s) or runs.has_unpublished(s, after_s=REPUBLISH_S)
            waiting = runs.count_queued(s) if due else 0
        if slept_s > self._settings.lease_s / 2:
            with self._db.begin() as s:
                runs.extend_leases(s, self._settings.lease_s)
            self._last_tick = time.time()
            log.warning("reaper: was asleep for %.0f s; leases extended once", slept_s)
            return
        forgotten: list[str] = []
        if due:
            # A message that is still at the broker only waits for a free slot; another copy would pile up there.
            lost = waiting > 0 and (queue.depth() or 0) < waiting
            asked_at = time.monotonic()
            with self._db.begin() as s:
                if time.monotonic() - asked_at > BUSY_S:
                    runs.extend_leases(s, self._settings.lease_s)
                for run_id, state in runs.reap_expired(s, max_failures=self._settings.max_failures):
                    log.warning("reaper: run %s lost its worker, now %s", run_id, state)
                forgotten = runs.take_unpublished(s, after_s=REPUBLISH_S if lost else NEVER_S)
        for run_id in forgotten:
            if not queue.publish(run_id):
                log.warning("reaper: up to %d runs wait for the broker", len(forgotten))
                break
        self._last_tick = time.time()
