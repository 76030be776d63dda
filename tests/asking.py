"""Asking a training for a snapshot at a step of the test's choice, also where points arrive later than their steps."""

from __future__ import annotations

from threading import Event


class AskAt(Event):
    """Set when it is looked at for the `wanted`th time: the loop looks after each step and at each batch evaluated."""

    def __init__(self, *wanted: int) -> None:
        super().__init__()
        self._wanted, self._looks = wanted, 0

    def is_set(self) -> bool:
        self._looks += 1
        return self._looks in self._wanted
