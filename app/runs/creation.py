"""New runs: a training that waits in the queue, or a run that an outside script drives."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from app.actor import actor
from app.db import now
from app.errors import Conflict, TooMany
from app.models import RUNNING, Run
from app.palette import next_style
from app.runs.reading import count_queued
from app.runs.transition import begin
from ml.catalog import MODELS
from ml.spec import RunSpec

_new_ids = threading.Lock()
_last_number = 0
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class NewRun:
    """A request for a run: `spec` for a training, `params` for a run that an outside script drives."""

    spec: RunSpec | None
    name: str | None = None
    experiment: str | None = None
    tags: Sequence[str] = ()
    notes: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None

    def digest(self) -> str:
        body = [
            self.spec and self.spec.model_dump(),
            self.name,
            self.experiment,
            list(self.tags),
            self.params,
        ]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def new_id() -> str:
    """Fourteen letters and digits that sort by time of creation, also within a millisecond of one process."""
    global _last_number
    with _new_ids:
        number = _last_number = max(
            _last_number + 1, (time.time_ns() // 1_000_000 << 25) | secrets.randbits(25)
        )
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(65, -1, -5))


def create_run(s: Session, new: NewRun, *, max_queued: int) -> tuple[Run, bool]:
    """The new row, and whether it is new: a known idempotency key gives the run that it made before.

    Raises: TooMany when the queue is full; Conflict when the key was used for another request.
    """
    known = _known_run(s, new)
    if known is not None:
        return known, False
    if new.spec is not None and count_queued(s) >= max_queued:
        raise TooMany(f"{max_queued} runs wait already; cancel some, or try again later")
    at = now(s)
    run = _training(new, at) if new.spec is not None else _external(new, at)
    run.style = next_style(s, new.experiment)
    try:
        with s.begin_nested():
            s.add(run)
    except IntegrityError:
        known = _known_run(s, new)  # the same request, sent twice at once: the other was first
        if known is None:
            raise
        return known, False
    reason = "submitted" if new.spec else "started by an outside script"
    begin(s, run, actor(), reason)
    return run, True


def _known_run(s: Session, new: NewRun) -> Run | None:
    """The run that this idempotency key made before. Raises: Conflict when the request was another."""
    if new.idempotency_key is None:
        return None
    known = s.exec(select(Run).where(col(Run.idempotency_key) == new.idempotency_key)).first()
    if known is not None and known.request_digest != new.digest():
        raise Conflict(
            "this Idempotency-Key was used for a different request; send a new key", "Idempotency-Key"
        )
    return known


def _training(new: NewRun, at: float) -> Run:
    spec = new.spec
    assert spec is not None
    return Run(
        id=new_id(),
        name=new.name or default_name(spec),
        experiment=new.experiment,
        tags=list(new.tags),
        notes=new.notes,
        spec=spec.model_dump(mode="json"),
        model=spec.model,
        dataset=spec.dataset,
        total_steps=spec.total_steps,
        steps_per_epoch=spec.steps_per_epoch,
        created_at=at,
        queued_at=at,
        updated_at=at,
        idempotency_key=new.idempotency_key,
        request_digest=new.digest(),
    )


def _external(new: NewRun, at: float) -> Run:
    run_id = new_id()
    return Run(
        id=run_id,
        kind="external",
        name=new.name or f"external {run_id[-5:]}",
        experiment=new.experiment,
        tags=list(new.tags),
        notes=new.notes,
        spec=new.params,
        model=_text(new.params.get("model")),
        dataset=_text(new.params.get("dataset")),
        state=RUNNING,
        created_at=at,
        queued_at=at,
        started_at=at,
        updated_at=at,
        idempotency_key=new.idempotency_key,
        request_digest=new.digest(),
    )


def _text(value: object) -> str | None:
    return value[:64] if isinstance(value, str) else None


def default_name(spec: RunSpec) -> str:
    return f"{MODELS[spec.model].title} · lr {spec.lr:g} · seed {spec.seed}"
