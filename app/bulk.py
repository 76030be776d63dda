"""One action on many runs: what was done, and why the rest was not. No run waits for another's trouble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sqlmodel import Session

from app import runs
from app.db import Database
from app.errors import Conflict, TrainyardError
from app.folders import delete_folder
from app.settings import Settings

Action = Literal["cancel", "delete", "tag"]
MAX_TAGS = 32
BATCH = 50  # runs a transaction: a trainer that wants to write never waits long


class Failure(NamedTuple):
    run: str
    code: str
    message: str


@dataclass(frozen=True)
class Outcome:
    done: list[str]
    failed: list[Failure]


def act(
    db: Database,
    settings: Settings,
    run_ids: Sequence[str],
    action: Action,
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
) -> Outcome:
    """Cancel these runs, delete them with all that they measured, or give and take tags."""
    change: dict[str, Callable[[Session, str], object]] = {
        "cancel": runs.request_cancel,
        "delete": runs.delete_run,
        "tag": lambda s, run_id: change_tags(s, run_id, add, remove),
    }
    ids = list(dict.fromkeys(run_ids))
    done: list[str] = []
    failed: list[Failure] = []
    for start in range(0, len(ids), BATCH):
        _act_on_batch(db, ids[start : start + BATCH], change[action], done, failed)
    if action == "delete":
        for run_id in done:
            delete_folder(settings.runs_dir, run_id)
    return Outcome(done, failed)


def _act_on_batch(
    db: Database,
    ids: Sequence[str],
    change: Callable[[Session, str], object],
    done: list[str],
    failed: list[Failure],
) -> None:
    refused: list[Failure] = []
    try:
        with db.begin() as s:
            for run_id in ids:
                try:
                    change(s, run_id)  # refuses before it changes anything
                except TrainyardError as error:
                    refused.append(Failure(run_id, error.code, error.message))
    except TrainyardError as error:  # the database itself: nothing of this batch was kept
        failed += [Failure(run_id, error.code, error.message) for run_id in ids]
        return
    failed += refused
    done += [run_id for run_id in ids if run_id not in {failure.run for failure in refused}]


def change_tags(s: Session, run_id: str, add: Sequence[str], remove: Sequence[str]) -> None:
    """Raises: NotFound; Conflict when the run would have too many tags."""
    run = runs.get_run(s, run_id, lock=True)
    tags = list(dict.fromkeys([*(tag for tag in run.tags if tag not in remove), *add]))
    if len(tags) > MAX_TAGS:
        count = len(tags)
        raise Conflict(f"that makes {count} tags; a run has at most {MAX_TAGS}, so remove some")
    if tags != run.tags:
        runs.edit_run(s, run_id, name=None, notes=None, tags=tags, experiment=None)
