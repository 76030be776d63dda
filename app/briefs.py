"""Brief rows of runs as JSON text, kept as long as the run's row does not change: most rows of a long list never do.

A row's revision grows in the transaction that changes what its brief tells, a summary too, so a brief that is kept for
a revision is right for it. Where a newer summary slips in between two reads, the row's newer revision replaces it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from sqlmodel import Session

from app import listing

MAX_BYTES = 48 * 2**20  # some 20,000 runs


class BriefCache:
    """One a process; the least recently told are forgotten first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def read(self, s: Session, rows: Sequence[tuple[str, int]]) -> list[bytes]:
        """JSON objects of these runs, given as ids with revisions; a run that is gone meanwhile is left out."""
        with self._lock:
            known = {run_id: self._known(run_id, revision) for run_id, revision in rows}
        missing = [run_id for run_id, text in known.items() if text is None]
        if missing:
            fresh = self._read(s, missing)
            known |= {run_id: text for run_id, (_, text) in fresh.items()}
            with self._lock:
                for run_id, entry in fresh.items():
                    self._keep(run_id, entry)
        return [text for text in known.values() if text is not None]

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _known(self, run_id: str, revision: int) -> bytes | None:
        entry = self._kept.get(run_id)
        if entry is None or entry[0] != revision:
            return None
        self._kept.move_to_end(run_id)
        return entry[1]

    def _read(self, s: Session, run_ids: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        found = listing.get_runs(s, run_ids)
        briefs = listing.briefs(s, found)
        return {run.id: (run.revision, _dump(brief)) for run, brief in zip(found, briefs, strict=True)}

    def _keep(self, run_id: str, entry: tuple[int, bytes]) -> None:
        before = self._kept.pop(run_id, None)
        self._bytes += len(entry[1]) - (len(before[1]) if before else 0)
        self._kept[run_id] = entry
        while self._bytes > self._max_bytes:
            _, (_, text) = self._kept.popitem(last=False)
            self._bytes -= len(text)


def _dump(brief: object) -> bytes:
    return json.dumps(brief, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
