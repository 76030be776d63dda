"""Catalog, workers, queue and health."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app import catalog, listing, queue, workers
from app.api.deps import AppSettings, Db
from app.errors import Unavailable
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
    return {
        "workers": [
            {
                "name": w.name,
                "host": w.host,
                "slots": w.slots,
                "devices": w.devices,
                "running": w.running,
                "note": w.note,
                "started_at": listing.iso(w.started_at),
                "seen_at": listing.iso(w.seen_at),
            }
            for w in present
        ]
    }


@router.get("/api/v1/queue", tags=["system"], summary="What waits, in which order")
def get_queue(db: Db) -> Json:
    with db.read() as s:
        waiting = listing.briefs(s, listing.list_waiting(s))
        free = sum(w.slots - len(w.running) for w in workers.list_present(s))
    return {
        "free_slots": max(0, free),
        "waiting": [{"position": i, **row} for i, row in enumerate(waiting, 1)],
    }
