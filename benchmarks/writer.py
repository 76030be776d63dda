"""Writes one run as its trainer would, without training: `python -m benchmarks.writer RUN_ID SECONDS RESULT.npz`.

Ten times a second it hands 10 steps of 4 metrics to a real `worker.reporter.Reporter`, so 400 points a second; every
10 s a checkpoint's pointer, every 15 s an evaluation with its answers. Settings come from TRAINYARD_* variables.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sqlmodel import Session

from app import runs
from app.artifacts import PREDICTIONS, NewArtifact
from app.db import Database
from app.errors import Unavailable
from app.settings import get_settings
from worker.reporter import Reporter

STEPS = 10  # a report
REPORT_S = 0.1
METRICS = ("train/loss", "train/accuracy", "train/lr", "system/memory")
CHECKPOINT_S, EVALUATION_S = 10.0, 15.0
ANSWERS_BYTES = 10_000  # of 10,000 validation images, see app.predictions


class Watched(Database):
    """Notes of each transaction how long it took, from the first try to the commit, and which tries failed."""

    def __init__(self, url: str) -> None:
        super().__init__(url, pool_size=1)
        self.seconds: list[float] = []
        self.committed: list[float] = []
        self.errors: list[str] = []
        self._asked_at: float | None = None

    @contextmanager
    def begin(self, *, durable: bool = False) -> Iterator[Session]:
        self._asked_at = self._asked_at or time.perf_counter()
        try:
            with super().begin(durable=durable) as s:
                yield s
        except Unavailable as error:
            self.errors.append(error.message)
            raise
        self.seconds.append(time.perf_counter() - self._asked_at)
        self.committed.append(time.time())
        self._asked_at = None


def main(run_id: str, seconds: float, result: Path) -> None:
    settings = get_settings()
    db = Database(settings.database_url, pool_size=1)
    with db.begin() as s:
        run = runs.claim_run(s, run_id, f"writer-{run_id[-4:]}", settings.lease_s)
    assert run is not None, f"{run_id} is not to be had"
    watched = Watched(settings.database_url)
    reporter = Reporter(
        watched, run_id, run.attempt, run.seq, lease_s=settings.lease_s, flush_s=settings.flush_s
    )
    reporter.start()
    points, held_s = write(reporter, seconds)
    reporter.close()
    with db.begin() as s:
        runs.end_run(s, run_id, run.attempt, "finished", "writer", "trained to the end")
    np.savez(
        result, points=points, held_s=held_s, seconds=watched.seconds, committed=watched.committed,
        errors=np.array(watched.errors, dtype=str),
    )  # fmt: skip


def write(reporter: Reporter, seconds: float) -> tuple[int, float]:
    """How many points were handed over, and the longest that the training loop was held up by it."""
    chance = np.random.default_rng(0)
    began = saved_at = evaluated_at = time.monotonic()
    points, longest = 0, 0.0
    for report in range(round(seconds / REPORT_S)):
        ahead = began + report * REPORT_S - time.monotonic()
        time.sleep(max(0.0, ahead))
        first = report * STEPS + 1
        steps = list(range(first, first + STEPS))
        times = [time.time() - (STEPS - 1 - n) * REPORT_S / STEPS for n in range(STEPS)]
        asked_at = time.monotonic()
        # Losses are 32 bits wide, as a network's are.
        values = {metric: chance.random(STEPS, dtype=np.float32).tolist() for metric in METRICS}
        reporter.add(steps, times, values)
        points += STEPS * len(METRICS)
        reporter.set(step=steps[-1], phase="training")
        at = time.monotonic()
        longest = max(longest, at - asked_at)
        if at - saved_at > CHECKPOINT_S:
            saved_at = at
            reporter.set(checkpoint={"file": "none.pt", "sha256": "0" * 64, "step": steps[-1], "epoch": 1})
        if at - evaluated_at > EVALUATION_S:
            evaluated_at = at
            content = chance.bytes(ANSWERS_BYTES)
            name = f"predictions-{steps[-1]}"
            answers = NewArtifact(name, PREDICTIONS, steps[-1], 1, "application/octet-stream", content)
            reporter.add([steps[-1]], [time.time()], {"val/loss": [0.5], "val/accuracy": [0.9]}, answers)
            points += 2
    return points, longest


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
