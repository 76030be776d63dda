"""Tells the database that this worker is there and what it runs, and reads there what people want of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from app import workers
from app.errors import TrainyardError
from app.models import DRAIN_NOW
from ml.datasets import DATASETS
from worker.supervisor import Supervisor

log = logging.getLogger(__name__)

PRESENCE_S = 5.0
LOOK_S = 1.0  # what has changed is told, and a wish is read, so soon


def list_registered(supervisor: Supervisor) -> dict[str, str]:
    """The data sets of this host's operator whose files are here: digest by name."""
    root = supervisor.settings.datasets_dir
    return {d.name: d.digest for d in DATASETS.values() if d.is_registered and d.on_disk(root)}


class Presence:
    """A thread from `start()` to `stop()`. `on_drain` ends the worker once its runs are over."""

    def __init__(
        self,
        supervisor: Supervisor,
        devices: list[str],
        on_drain: Callable[[], None],
        capacity: Callable[[], dict[str, Any]],
    ) -> None:
        self._supervisor, self._devices, self._on_drain = supervisor, devices, on_drain
        self._stop = threading.Event()
        self._capacity = capacity
        self._told: tuple[list[str], dict[str, Any]] | None = None
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        self._try(self._say_goodbye)  # a worker of this name that was killed: nothing asked of it concerns us
        while True:
            self._try(self._look)
            if self._stop.wait(LOOK_S):
                break
        self._try(self._say_goodbye)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except TrainyardError as error:
            log.warning("presence: %s", error.message)

    def _say_goodbye(self) -> None:
        with self._supervisor.db.begin() as s:
            workers.say_goodbye(s, self._supervisor.name)

    def _look(self) -> None:
        ours = self._supervisor
        running, capacity = sorted(ours.running.values()), self._capacity()
        if self._told == (running, capacity) and time.monotonic() - self._told_at < PRESENCE_S:
            with ours.db.read() as s:
                wish = workers.read_wish(s, ours.name)
        else:
            with ours.db.begin() as s:
                note = ours.room.shortage()
                slots = ours.slots
                row = workers.say_present(
                    s, ours.name, slots.count, self._devices, running, note, slots.gpus, list_registered(ours)
                )
                wish = row.drain
                row.capacity = capacity
            self._told, self._told_at = (running, capacity), time.monotonic()
        if wish and not ours.leaving.is_set():
            log.warning("drained: no more runs are taken")
            ours.leaving.set()
            self._on_drain()
        if wish == DRAIN_NOW and not ours.stopping.is_set():
            log.warning("drained at once: runs are given back")
            ours.stopping.set()
