"""Checkpoint files that no row points to: an attempt was killed while it wrote one, or before its row could tell."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from app import runs
from app.db import Database
from app.errors import NotFound
from app.models import RUNNING

log = logging.getLogger(__name__)

# As ml.checkpoint writes them: the whole file, or with a dot before and a suffix behind while it is being written.
_FILE = re.compile(r"\.?checkpoint-(\d+)-\d+\.pt(?:\..+)?")


def remove_leftovers(db: Database, runs_dir: Path, run_id: str, attempt: int | None = None) -> None:
    """Remove the checkpoints that attempts up to `attempt`, all of them over, wrote for nothing; without it, those of
    all attempts of a run that does not run.

    A later attempt may be at work meanwhile, on this host or another: its own files carry its number, and those of
    others that it can go back to are in the row. Where the folder is not, there is nothing to do.

    Raises: Unavailable.
    """
    found = [path for path in (runs_dir / run_id).glob("*checkpoint-*") if _FILE.fullmatch(path.name)]
    if not found:
        return
    try:
        with db.read() as s:
            run = runs.get_run(s, run_id)
    except NotFound:
        return  # it was deleted just now, and its folder with it
    last = attempt or (run.attempt if run.state != RUNNING else 0)
    pointer = run.checkpoint or {}
    kept = {one["file"] for one in (pointer, pointer.get("previous")) if one}
    for path in found:
        if path.name not in kept and _attempt_of(path) <= last:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("run %s: %s cannot be removed: %s", run_id, path.name, error.strerror)


def _attempt_of(path: Path) -> int:
    match = _FILE.fullmatch(path.name)
    assert match is not None
    return int(match.group(1))
