"""Whether a worker has room for another run: it takes none while the disk of its data directory is nearly full."""

from __future__ import annotations

import logging
import threading

from app import runs
from app.db import Database
from app.disk import describe_shortage
from app.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 1.0


class Room:
    """Of one worker; its slots ask before they claim."""

    def __init__(self, db: Database, settings: Settings, worker: str) -> None:
        self._db, self._settings, self._worker = db, settings, worker

    def shortage(self) -> str:
        """Why no run begins now; empty when one may."""
        return describe_shortage(self._settings.data_dir, self._settings.min_free_mb) or ""

    def wait(self, run_id: str, stopping: threading.Event) -> bool:
        """Wait for room, and tell whoever looks at the run; whether to claim it now.

        The slot is held meanwhile, so this worker takes no more messages than it has slots: the reaper sends the run's
        message again, and a worker with room may have it. Raises: Unavailable.
        """
        told = False
        while why := self.shortage():
            if not told:
                log.warning("run %s waits: %s", run_id, why)
            if not self._say(run_id, f"waits for worker {self._worker}: {why}"):
                return False
            told = True
            if stopping.wait(LOOK_S):
                self._say(run_id, "")
                return False
        return not told or self._say(run_id, "")

    def _say(self, run_id: str, why: str) -> bool:
        with self._db.begin() as s:
            return runs.say_waiting(s, run_id, why)
