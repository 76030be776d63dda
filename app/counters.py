"""What this process has done since it started, counted for `/metrics`. Knows nothing of who asks."""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple


class Key(NamedTuple):
    name: str
    label: str = ""


REAPED = "reaped"  # label: the state that the run got
REPUBLISHED = "republished"
LEASES_EXTENDED = "leases_extended"
COMPACTED = "compacted"
POINTS_INGESTED = "points_ingested"
BATCHES_INGESTED = "batches_ingested"

_lock = threading.Lock()
_counts: Counter[Key] = Counter()


def count(name: str, amount: int = 1, label: str = "") -> None:
    with _lock:
        _counts[Key(name, label)] += amount


def read(name: str) -> dict[str, int]:
    """How often, by label."""
    with _lock:
        return {key.label: amount for key, amount in _counts.items() if key.name == name}
