"""Before a run: what its network is, what it will need, and whether it can run here."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from app import preflight
from app.api.bodies import PreflightBody
from app.api.deps import Db
from app.preflight import Preflight

router = APIRouter(prefix="/api/v1", tags=["runs"])

Json = dict[str, Any]


@router.post("/preflight", summary="What a spec needs, before it is queued")
def check_spec(body: PreflightBody, db: Db) -> Json:
    """Parameters, the output of every layer, memory and time of an epoch; `fits` is false where it cannot run, and
    `problem` says why and what to do.

    A worker looks at a network that was not asked for before, which takes some seconds at first; 503 when none is here.
    `time.source` is `runs` where finished runs like it were timed on such a slot, `estimate` where the worker's
    measured speed is all there is (within a factor of two or so).
    """
    return preflight_json(preflight.check(db, body.spec))


def preflight_json(found: Preflight) -> Json:
    anatomy, memory, slot = found.anatomy, found.memory, found.slot
    return {
        "model": found.spec.model,
        "fits": not found.problem,
        "problem": found.problem or None,
        "field": found.field or None,
        "caution": found.caution or None,
        "parameters": anatomy.get("parameters"),
        "trainable": anatomy.get("trainable"),
        "layers": anatomy.get("layers", []),
        "flops": {"forward": anatomy.get("forward_flops"), "step": anatomy.get("step_flops")},
        "memory": memory
        and {
            "total": memory.total,
            "model": memory.model,
            "activations": memory.activations,
            "data": memory.data,
            "process": memory.process,
        },
        "time": {
            "epoch_s": found.epoch_s,
            "run_s": None if found.epoch_s is None else found.epoch_s * found.spec.epochs,
            "source": found.source,
            "runs": found.runs,
        },
        "slot": slot
        and {
            "worker": slot.worker,
            "host": slot.host,
            "device": slot.device,
            "memory": slot.memory,
            "threads": slot.threads,
        },
    }
