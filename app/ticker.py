"""A thread that does a small thing again and again beside the process's own work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from app.errors import TrainyardError

log = logging.getLogger(__name__)

TICK_S = 1.0
STOP_S = 5.0


class Ticker:
    """Calls `tick` once a second from `start()` until `stop()`; a tick that fails is logged and the next one tried."""

    def __init__(self, name: str, tick: Callable[[], object]) -> None:
        self._name, self._tick = name, tick
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_S)

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                self._tick()
            except TrainyardError as error:
                log.warning("%s: %s", self._name, error.message)
            except Exception:
                log.exception("%s: tick failed", self._name)
