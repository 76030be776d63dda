"""Runs: create, list, read, edit, delete, and ask for another state."""

from __future__ import annotations

import json
from itertools import product
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Query, Response
from pydantic import ValidationError

from app import bulk, listing, query, runs, submit
from app.api.bodies import BulkBody, EditBody, ExperimentBody, FinishBody, RunBody
from app.api.deps import AppSettings, Briefs, Db, Who
from app.errors import Invalid
from app.listing import Filter
from app.models import Run
from app.scopes import Scope
from app.validation import spec_errors
from ml.catalog import MODELS
from ml.precision import share_precision
from ml.spec import RunSpec

router = APIRouter(prefix="/api/v1", tags=["runs"])
external = APIRouter(prefix="/api/v1", tags=["external runs"])

Json = dict[str, Any]
Limit = Annotated[int, Query(ge=1, le=1000)]
MAX_EXPERIMENT_RUNS = 200
SAME: dict[int | str, Json] = {200: {"description": "The run that this key gave before", "model": Json}}
ASKED: dict[int | str, Json] = {202: {"description": "Its trainer was asked to stop", "model": Json}}
LISTED: dict[int | str, Json] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}}}  # written as text: see app.briefs
}


@router.post("/runs", status_code=201, summary="Start a run", responses=SAME)
def create_run(
    body: RunBody,
    response: Response,
    db: Db,
    settings: AppSettings,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Json:
    """Queue a training, or open an external run. The same `Idempotency-Key` gives the same run again (status 200)."""
    new = runs.NewRun(
        body.spec,
        body.name,
        body.experiment,
        body.tags,
        body.notes,
        body.params,
        idempotency_key=idempotency_key,
    )
    rows, is_new = submit.create(db, settings, [new])
    if not is_new:
        response.status_code = 200
    response.headers["location"] = rows[0]["url"]
    return rows[0]


@router.post("/experiments", status_code=201, summary="Start a controlled experiment")
def create_experiment(body: ExperimentBody, db: Db, settings: AppSettings) -> Json:
    """Queue one run for each combination of the varied fields, all else locked.

    Precision `auto` is fp32 for all where it would not come to the same for all models.
    """
    count = int(np.prod([len(values) for values in body.vary.values()], dtype=object)) if body.vary else 1
    if count > MAX_EXPERIMENT_RUNS:
        raise Invalid(f"that makes {count} runs, over {MAX_EXPERIMENT_RUNS}; vary fewer values", "vary")
    for name in body.vary:
        if name not in RunSpec.model_fields:
            raise Invalid(f"there is no spec field {name!r} to vary", f"vary.{name}")
    each = [dict(zip(body.vary, values, strict=True)) for values in product(*body.vary.values())]
    specs = share_precision(_checked_spec({**body.spec, **varied}, varied) for varied in each)
    wanted = [
        runs.NewRun(spec, _varied_name(spec, varied), body.name, body.tags)
        for spec, varied in zip(specs, each, strict=True)
    ]
    rows, _ = submit.create(db, settings, wanted)
    link = "/compare?" + "&".join(f"run={row['id']}" for row in rows)
    return {"name": body.name, "url": link, "runs": rows}


def _checked_spec(fields: Json, varied: Json) -> RunSpec:
    try:
        return RunSpec.model_validate(fields)
    except ValidationError as error:
        name, message = next(iter(spec_errors(error, fields).items()))
        place = "vary" if name.split(".")[0] in varied else "spec"
        raise Invalid(f"{place}.{name}: {message}", f"{place}.{name}") from error


def _varied_name(spec: RunSpec, varied: Json) -> str:
    parts = [MODELS[spec.model].title] + [f"{key} {value}" for key, value in varied.items() if key != "model"]
    return " · ".join(parts)[:200]


@router.get("/runs", summary="List runs", responses=LISTED)
def list_runs(
    db: Db,
    briefs: Briefs,
    experiment: Annotated[str | None, Query(max_length=200)] = None,
    state: Annotated[list[str], Query()] = [],  # noqa: B006  # FastAPI copies it
    model: Annotated[list[str], Query()] = [],  # noqa: B006
    dataset: Annotated[list[str], Query()] = [],  # noqa: B006
    tag: Annotated[str | None, Query(max_length=100)] = None,
    text: Annotated[str | None, Query(max_length=200)] = None,
    q: Annotated[str, Query(description="A query such as `lr > 0.01 AND val/accuracy >= 0.98`.")] = "",
    sort: Annotated[
        str, Query(description="A field of the query language; `-` before it reverses.")
    ] = "-created",
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
) -> Response:
    """One page of runs, the newest first unless `sort` says otherwise; `next_cursor` asks for the next page."""
    wanted = Filter(experiment, state, model, dataset, tag, text, sort, query.parse(q))
    with db.read() as s:
        page = listing.list_page(s, wanted, limit=limit, cursor=cursor)
        rows = briefs.read(s, page.rows)
    following = json.dumps(page.older).encode()
    return Response(
        b'{"runs":[%b],"next_cursor":%b}' % (b",".join(rows), following), media_type="application/json"
    )


@router.post("/runs/bulk", summary="Cancel, delete or tag many runs")
def change_runs(body: BulkBody, db: Db, settings: AppSettings, who: Who) -> Json:
    """Each run by itself: `done` has the ids that were changed, `failed` says of each other one why it was not.

    Deleting needs the scope `admin`, as it does one by one.
    """
    who.need(Scope.ADMIN if body.action == "delete" else Scope.SUBMIT)
    outcome = bulk.act(db, settings, body.runs, body.action, add=body.add, remove=body.remove)
    return {"done": outcome.done, "failed": [failure._asdict() for failure in outcome.failed]}


@router.get("/runs/{run_id}", summary="Everything on one run")
def get_run(run_id: str, db: Db) -> Json:
    with db.read() as s:
        return detail(s, runs.get_run(s, run_id))


def detail(s: Any, run: Run) -> Json:
    """The brief row with what was resolved, the log's tail and the events."""
    return {
        **listing.briefs(s, [run])[0],
        "notes": run.notes,
        "resolved": run.resolved,
        "error_tail": run.error_tail,
        "events": [listing.event_json(event) for event in runs.list_events(s, run.id)],
    }


@router.patch("/runs/{run_id}", summary="Change name, notes, tags or experiment")
def edit_run(run_id: str, body: EditBody, db: Db) -> Json:
    with db.begin() as s:
        given = body.model_dump()
        return detail(s, runs.edit_run(s, run_id, **given))


@router.delete("/runs/{run_id}", status_code=204, summary="Delete a run that does not run")
def delete_run(run_id: str, db: Db, settings: AppSettings) -> None:
    """With all that it measured, its logs and its checkpoints."""
    submit.delete(db, settings, run_id)


@router.post("/runs/{run_id}/cancel", summary="Cancel a run", responses=ASKED)
def cancel_run(run_id: str, db: Db, response: Response) -> Json:
    """200 when it is canceled now; 202 when its trainer was asked to stop."""
    with db.begin() as s:
        row = detail(s, runs.request_cancel(s, run_id))
    response.status_code = 200 if row["state"] == "canceled" else 202
    return row


@router.post("/runs/{run_id}/pause", status_code=202, summary="Write a checkpoint and stop")
def pause_run(run_id: str, db: Db) -> Json:
    with db.begin() as s:
        return detail(s, runs.request_pause(s, run_id))


@router.post("/runs/{run_id}/resume", status_code=202, summary="Go on from the last checkpoint")
def resume_run(run_id: str, db: Db) -> Json:
    with db.begin() as s:
        run = runs.resume_run(s, run_id)
        row = detail(s, run)
    submit.publish(db, [run])
    return row


@router.post("/runs/{run_id}/clone", status_code=201, summary="Start a new run with the same spec")
def clone_run(run_id: str, db: Db, settings: AppSettings) -> Json:
    return submit.clone(db, settings, run_id)


@external.post("/runs/{run_id}/finish", summary="End an external run")
def finish_run(run_id: str, body: FinishBody, db: Db) -> Json:
    with db.begin() as s:
        return detail(s, runs.finish_external(s, run_id, body.state, body.error))
