"""Returns abandoned runs to the queue and sends forgotten ones again, once a second.

Runs in every web process and every worker at once: each action is a compare-and-set.
"""

from __future__ import annotations

import logging
import time

from app import counters, gpus, queue, runs
from app.db import Database
from app.leftovers import remove_leftovers
from app.settings import Settings

log = logging.getLogger(__name__)

REPUBLISH_S = 15.0  # a message is sent again after this when fewer wait at the broker than runs do
NORMAL_S = 60.0  # and after this when enough wait there, which may be other runs'
BUSY_S = 0.5  # a write that waits for longer than this says that workers wait too
SPARE_LEASES = (
    3  # they are spared for that once in so many leases, or a busy database would keep the dead alive
)
NEVER_S = 1e9
CLOCK_S = 2.0  # a clock that is corrected by less harms nothing


class Reaper:
    """What has to be done each second, by a Ticker; it remembers when it last was."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db, self._settings = db, settings
        self._last_tick = time.time()
        self._spared_at = -float("inf")
        self._is_first = True
        self._missed = False  # the last tick could not be done: the database was away, locked or full

    def tick(self) -> None:
        """Give slept-through leases one more term; otherwise reap, then publish what was forgotten.

        A tick that fails counts as slept: while the database was away, no worker could renew its lease. So does one
        that had to wait to write: the worker whose lease has expired may be waiting just behind. And so does a clock
        that was set, forwards or back; what it dated too far ahead is dated anew, as at the start of a process.
        """
        missed, self._missed = self._missed, True
        self._look(missed)
        self._missed = False
        self._last_tick = time.time()

    def _look(self, missed: bool) -> None:
        slept_s = time.time() - self._last_tick
        if self._is_first or slept_s < -CLOCK_S:
            with self._db.begin() as s:
                runs.redate(s, self._settings.lease_s)
            self._is_first = False
        with self._db.read() as s:
            missing = gpus.find_changed(s)
            expired = runs.has_expired(s)
            waiting = runs.count_queued(s) if runs.has_unpublished(s, after_s=REPUBLISH_S) else 0
        if missed or abs(slept_s) > self._settings.lease_s / 2:
            with self._db.begin() as s:
                runs.extend_leases(s, self._settings.lease_s)
            counters.count(counters.LEASES_EXTENDED)
            log.warning("reaper: missed %.0f s; leases extended once", slept_s)
            return
        if expired:
            self._reap()
        if missing:
            with self._db.begin() as s:
                gpus.note_missing(s, missing)
        if waiting:
            self._publish(waiting)

    def _reap(self) -> None:
        asked_at = time.monotonic()
        with self._db.begin() as s:
            began_at = time.monotonic()
            if (
                began_at - asked_at > BUSY_S
                and began_at - self._spared_at > SPARE_LEASES * self._settings.lease_s
            ):
                runs.extend_leases(s, self._settings.lease_s)
                self._spared_at = began_at
            reaped = runs.reap_expired(s, max_failures=self._settings.max_failures)
        for run_id, state in reaped:
            counters.count(counters.REAPED, label=state)
            log.warning("reaper: run %s lost its worker, now %s", run_id, state, extra={"run": run_id})
            # Also of a run that waits again: it may be canceled before another attempt tidies up.
            remove_leftovers(self._db, self._settings.runs_dir, run_id)

    def _publish(self, waiting: int) -> None:
        """Send what was never sent, and again what may be lost.

        A message that is still at the broker only waits for a free slot: copies must not pile up there.
        """
        at_broker = queue.depth() or 0
        after_s = REPUBLISH_S if at_broker < waiting else NORMAL_S if at_broker < 2 * waiting else NEVER_S
        with self._db.read() as s:
            if not runs.has_unpublished(s, after_s=after_s):
                return
        with self._db.begin() as s:
            forgotten = runs.take_unpublished(s, after_s=after_s)
            needed = gpus.read_needed(s, forgotten)
        for place, run_id in enumerate(forgotten):
            if not queue.publish(run_id, needed.get(run_id, 0)):
                left = forgotten[place:]
                log.warning("reaper: up to %d runs wait for the broker", len(left))
                with self._db.begin() as s:
                    runs.mark_unpublished(s, left)
                break
            counters.count(counters.REPUBLISHED)
