"""Catalog, workers, queue and health."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app import catalog, listing, queue, workers
from app.api.bodies import DrainBody
from app.api.deps import AppSettings, Db
from app.errors import Unavailable
from app.models import Worker
from app.security import CALLER

router = APIRouter()

Json = dict[str, Any]


@router.get("/healthz", tags=["system"], summary="Is the process alive?")
async def healthz() -> Json:
    return {"status": "ok"}  # on the event loop: requests that wait for the database hold every thread


@router.get("/readyz", tags=["system"], summary="Can it do its work?")
def readyz(request: Request, db: Db, response: Response) -> Json:
    """200 when database and broker answer; otherwise 503, with the reason of each for who may read."""
    checks = {"database": "ok", "broker": queue.ping() or "ok"}
    try:
        db.ping()
    except Unavailable as error:
        checks["database"] = error.message
    ready = all(value == "ok" for value in checks.values())
    response.status_code = 200 if ready else 503
    status = "ready" if ready else "not ready"
    return {"status": status} if request.scope[CALLER] is None else {"status": status, "checks": checks}


@router.get("/api/v1/catalog", tags=["system"], summary="Models, datasets and the schema of a spec")
def get_catalog(settings: AppSettings) -> Json:
    return catalog.describe(settings.datasets_dir)


@router.get("/api/v1/workers", tags=["system"], summary="Who is there, and what they do")
def get_workers(db: Db) -> Json:
    with db.read() as s:
        present = workers.list_present(s)
    return {"workers": [worker_json(worker) for worker in present]}


@router.post("/api/v1/workers/{name}/drain", status_code=202, tags=["system"], summary="Let a worker end")
def drain_worker(name: str, db: Db, body: DrainBody | None = None) -> Json:
    """It takes no more runs and ends once those it has are over; with `now` they go on elsewhere from a checkpoint."""
    with db.begin() as s:
        return worker_json(workers.request_drain(s, name, at_once=body is not None and body.now))


def worker_json(worker: Worker) -> Json:
    return {
        "name": worker.name,
        "host": worker.host,
        "state": "draining" if worker.drain else "ready",
        "drained_by": worker.drain_by or None,
        "slots": worker.slots,
        "busy": len(worker.running),
        "gpus": worker.gpus,
        "devices": worker.devices,
        "datasets": worker.datasets,
        "running": list(dict.fromkeys(worker.running)),
        "note": worker.note,
        "started_at": listing.iso(worker.started_at),
        "seen_at": listing.iso(worker.seen_at),
    }


@router.get("/api/v1/queue", tags=["system"], summary="What waits, in which order")
def get_queue(db: Db) -> Json:
    with db.read() as s:
        waiting = listing.briefs(s, listing.list_waiting(s))
        free = sum(w.slots - len(w.running) for w in workers.list_present(s) if not w.drain)
    return {
        "free_slots": max(0, free),
        "waiting": [{"position": i, **row} for i, row in enumerate(waiting, 1)],
    }
