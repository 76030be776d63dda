"""Submitting runs: store them in one transaction, then tell the workers."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from app import listing, queue, runs
from app.db import Database
from app.settings import Settings


def create(db: Database, settings: Settings, wanted: list[runs.NewRun]) -> tuple[list[dict[str, Any]], bool]:
    """Store all of these runs or none, then tell the workers. Their briefs, and whether they are new."""
    with db.begin() as s:
        made = [runs.create_run(s, new, max_queued=settings.max_queued) for new in wanted]
        rows = listing.briefs(s, [run for run, _ in made])
    publish(db, [run.id for run, is_new in made if is_new and run.kind == "training"])
    return rows, all(is_new for _, is_new in made)


def publish(db: Database, run_ids: list[str]) -> None:
    """Send the messages of queued runs; the reaper sends what a silent broker did not take."""
    sent = list(takewhile(queue.publish, run_ids))  # the first that fails says enough of the broker
    if sent:
        with db.begin() as s:
            runs.mark_published(s, sent)
