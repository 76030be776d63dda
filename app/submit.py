"""What a person asks for that is more than a row: runs submitted, run again, deleted with their files."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from app import gpus, listing, preflight, queue, runs
from app.db import Database
from app.errors import Invalid
from app.folders import delete_folder
from app.models import Run
from app.settings import Settings
from ml.spec import RunSpec


def create(db: Database, settings: Settings, wanted: list[runs.NewRun]) -> tuple[list[dict[str, Any]], bool]:
    """Store all of these runs or none, then tell the workers. Their briefs, and whether they are new.

    Raises: Invalid for one that no slot here has the memory for.
    """
    preflight.refuse_impossible(db, [new.spec for new in wanted if new.spec is not None])
    with db.begin(durable=True) as s:  # what was answered with 201 is not lost to a power cut
        made = [runs.create_run(s, new, max_queued=settings.max_queued) for new in wanted]
        gpus.note_missing(s, [run for run, _ in made])
        rows = listing.briefs(s, [run for run, _ in made])
    publish(db, [run for run, is_new in made if is_new and run.kind == "training"])
    return rows, all(is_new for _, is_new in made)


def clone(db: Database, settings: Settings, run_id: str) -> dict[str, Any]:
    """A new run with the same spec, name, experiment and tags; its brief.

    Raises: NotFound; Invalid for a run that an outside script drove, or whose spec holds no more.
    """
    with db.read() as s:
        run = runs.get_run(s, run_id)
    if run.kind != "training":
        raise Invalid("an outside script drove this run; start it there again")
    try:
        spec = RunSpec.model_validate(run.spec)
    except ValidationError as error:  # its data set was removed, most likely
        first = error.errors()[0]
        field, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise Invalid(f"this run cannot be started again: {why}", field) from error
    return create(db, settings, [runs.NewRun(spec, run.name, run.experiment, run.tags)])[0][0]


def delete(db: Database, settings: Settings, run_id: str) -> None:
    """Delete a run with all that it measured, its logs and its checkpoints.

    Raises: NotFound; Conflict while it runs or waits.
    """
    with db.begin() as s:
        runs.delete_run(s, run_id)
    delete_folder(settings.runs_dir, run_id)


def publish(db: Database, queued: list[Run]) -> None:
    """Send the messages of queued runs; the reaper sends what a silent broker did not take."""
    # The first that fails says enough of the broker.
    sent = list(takewhile(lambda run: queue.publish(run.id, gpus.count_needed(run.spec)), queued))
    if sent:
        with db.begin() as s:
            runs.mark_published(s, [run.id for run in sent])
