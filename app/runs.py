"""The run state machine: the only code that changes a run's state.

    queued -> running -> finished | failed | canceled | paused
    running -> queued             when the lease expires or the worker lets go
    queued -> canceled            by a person
    paused | failed | canceled -> queued   by resume, as a new attempt

`finished` is terminal. Every change is a compare-and-set and a row in the event table. The session comes first; nothing
here commits. Times come from `db.now`. What a person asks of a running run is a flag in its row; every transition
clears the flags, and one out of `running` does what they ask.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Boolean, ColumnElement, delete, func, insert, or_, text, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from app import artifacts, series
from app.artifacts import NewArtifact
from app.db import now
from app.errors import Conflict, Fenced, NotFound, TooMany
from app.models import (
    CANCELED,
    ENDED,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    MetricBatch,
    Run,
    RunEvent,
)
from app.palette import next_style
from ml.catalog import MODELS
from ml.spec import RunSpec

TAIL_BYTES = 20_000
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


@dataclass(frozen=True)
class Flags:
    """What the reply to a flush asks of the trainer."""

    cancel: bool
    pause: bool


def new_id() -> str:
    """Fourteen letters and digits that sort by time of creation, also within a millisecond of one process."""
    global _last_number
    with _new_ids:
        number = _last_number = max(
            _last_number + 1, (time.time_ns() // 1_000_000 << 25) | secrets.randbits(25)
        )
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(65, -1, -5))


# -- creation -------------------------------------------------------------------------------------------------------


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
    _record(
        s, run.id, at, None, run.state, "user", "submitted" if new.spec else "started by an outside script", 0
    )
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


def count_queued(s: Session) -> int:
    return s.exec(select(func.count()).select_from(Run).where(col(Run.state) == QUEUED)).one()


# -- the worker's side ----------------------------------------------------------------------------------------------


def claim_run(s: Session, run_id: str, worker: str, lease_s: float) -> Run | None:
    """The run, now this worker's next attempt, its series cut behind the checkpoint; None when it is not to be had."""
    at = now(s)
    run: Run | None = s.execute(
        update(Run)
        .where(
            col(Run.id) == run_id,
            col(Run.state) == QUEUED,
            col(Run.kind) == "training",
            col(Run.cancel_requested).is_(False),
            col(Run.not_before) <= at,
        )
        .values(
            state=RUNNING,
            attempt=col(Run.attempt) + 1,
            worker=worker,
            phase="starting",
            lease_until=at + lease_s,
            started_at=func.coalesce(col(Run.started_at), at),
            ended_at=None,
            error=None,
            error_tail=None,
            **_touched(at),
        )
        .returning(Run)
    ).scalar_one_or_none()
    if run is None:
        return None
    kept = int(run.checkpoint["step"]) if run.checkpoint else 0
    series.truncate_after(s, run_id, kept)
    artifacts.truncate_after(s, run_id, kept)
    run.step, run.epoch = kept, int(run.checkpoint["epoch"]) if run.checkpoint else 0
    why = f"claimed by {worker}" + (f"; resumes from step {kept:,}" if kept else "")
    _record(s, run_id, at, QUEUED, RUNNING, worker, why, run.attempt)
    return run


def report(
    s: Session,
    run_id: str,
    attempt: int,
    seq: int,
    points: series.Points,
    *,
    lease_s: float,
    step: int | None = None,
    epoch: int | None = None,
    phase: str | None = None,
    step_rate: float | None = None,
    checkpoint: dict[str, Any] | None = None,
    resolved: dict[str, Any] | None = None,
    files: Sequence[NewArtifact] = (),
) -> Flags:
    """One flush: fence check, lease renewal, chunks, artifacts (`files`), progress and checkpoint pointer, in the
    caller's transaction.

    `seq` counts the flushes of a run. A flush whose commit was in doubt is sent again with the same number and then
    changes nothing but the lease.

    Raises: Fenced when another attempt has taken over or the run has ended; the caller must stop writing.
    """
    connection = s.connection()
    at = now(s)
    given = {
        "run_id": run_id, "attempt": attempt, "seq": seq, "before": seq - 1, "at": at, "lease_until": at + lease_s,
        "step": step, "epoch": epoch, "phase": phase, "step_rate": step_rate,
    }  # fmt: skip
    flags = connection.execute(_REPORT, given).one_or_none()
    is_new = flags is not None
    if flags is None:
        flags = connection.execute(_REPORT, {**given, "before": seq}).one_or_none()
    if flags is None:
        raise Fenced(f"attempt {attempt} of run {run_id} was superseded")
    if is_new:
        series.append_chunks(s, run_id, seq, points)
        artifacts.store(s, run_id, files, at)
    documents = {"checkpoint": checkpoint, "resolved": resolved}
    changed: dict[str, Any] = {name: document for name, document in documents.items() if document is not None}
    if checkpoint is not None:
        changed["failures"] = 0  # it gets on: deaths far apart are no crash loop
    if changed:
        s.execute(update(Run).where(col(Run.id) == run_id).values(changed))
    return Flags(*flags)


# As text, and not built anew each time: a trainer runs this several times a second beside the training loop.
_REPORT = text("""
UPDATE run SET lease_until = :lease_until, updated_at = :at, revision = revision + 1, seq = :seq,
  step = coalesce(:step, step), epoch = coalesce(:epoch, epoch), phase = coalesce(:phase, phase),
  step_rate = coalesce(:step_rate, step_rate)
WHERE id = :run_id AND attempt = :attempt AND state = 'running' AND seq = :before
RETURNING cancel_requested, pause_requested
""").columns(cancel_requested=Boolean, pause_requested=Boolean)


def rewind(
    s: Session, run_id: str, attempt: int, pointer: dict[str, Any] | None, actor: str, reason: str
) -> None:
    """Go back to an older checkpoint (None: to the start), because the newest cannot be read.

    Raises: Fenced when the attempt does not hold the run any more.
    """
    at = now(s)
    step, epoch = (int(pointer["step"]), int(pointer["epoch"])) if pointer else (0, 0)
    held = s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.attempt) == attempt, col(Run.state) == RUNNING)
        .values(checkpoint=pointer, step=step, epoch=epoch, **_touched(at))
    )
    if not held.rowcount:  # type: ignore[attr-defined]
        raise Fenced(f"attempt {attempt} of run {run_id} was superseded")
    series.truncate_after(s, run_id, step)
    artifacts.truncate_after(s, run_id, step)
    _record(s, run_id, at, RUNNING, RUNNING, actor, f"{reason}; goes on from step {step:,}", attempt)


def renew_lease(s: Session, run_id: str, attempt: int, lease_s: float) -> None:
    """Keep a run while its trainer is still starting."""
    s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.attempt) == attempt, col(Run.state) == RUNNING)
        .values(lease_until=now(s) + lease_s)
    )


def end_run(
    s: Session, run_id: str, attempt: int, to_state: str, actor: str, reason: str, *, tail: str | None = None
) -> None:
    """running -> finished, failed, canceled or paused, by the attempt that holds the run.

    Raises: Fenced when it does not hold it any more.
    """
    mine = col(Run.attempt) == attempt
    values: dict[str, Any] = {"error_tail": _clip(tail)}
    if to_state == FAILED:
        values["error"] = reason
    if to_state == PAUSED and _move(
        s, run_id, RUNNING, CANCELED, actor, "canceled", mine, col(Run.cancel_requested).is_(True)
    ):
        return  # cancel was asked for after pause
    if not _move(s, run_id, RUNNING, to_state, actor, reason, mine, **values):
        raise Fenced(f"attempt {attempt} of run {run_id} does not hold it any more")


def release_run(s: Session, run_id: str, attempt: int, actor: str, reason: str) -> bool:
    """running -> queued by a worker that shuts down in good order; not counted as a failure.

    Canceled or paused instead where that was asked for. False when the attempt does not hold the run any more.
    """
    run = get_run(s, run_id, lock=True)
    mine = col(Run.attempt) == attempt
    asked = _asked_for(run)
    if asked is not None:
        return _move(s, run_id, RUNNING, asked, actor, asked, mine)
    return _move(s, run_id, RUNNING, QUEUED, actor, reason, mine, queued_at=now(s), published_at=None)


def _asked_for(run: Run) -> str | None:
    """The state that a person wants a running run to get."""
    return CANCELED if run.cancel_requested else PAUSED if run.pause_requested else None


def give_back(
    s: Session,
    run: Run,
    actor: str,
    reason: str,
    *guards: ColumnElement[bool],
    max_failures: int,
    tail: str | None = None,
) -> str | None:
    """After an attempt died: running -> queued, failed, or what was asked for. The state it got; None when fenced.

    `run` was read with a lock in this transaction, so that nothing can be asked of it meanwhile.
    """
    failures = run.failures + 1
    at = now(s)
    values: dict[str, Any] = {"failures": failures, "error_tail": _clip(tail)}
    asked = _asked_for(run)
    if asked is not None:
        state, values = asked, {}
    elif failures >= max_failures:
        state = FAILED
        reason = f"{reason}; gave up after {failures} failed attempts"
        values["error"] = reason
    else:
        state = QUEUED
        values |= {"queued_at": at, "published_at": None, "not_before": at + float(5 ** (failures - 1))}
    mine = (col(Run.attempt) == run.attempt, *guards)
    return state if _move(s, run.id, RUNNING, state, actor, reason, *mine, **values) else None


# -- a person's side ------------------------------------------------------------------------------------------------


def request_cancel(s: Session, run_id: str) -> Run:
    """Cancel at once what waits or is paused; ask the trainer of what runs. Asking twice is no error.

    Raises: NotFound; Conflict when the run has ended.
    """
    run = get_run(s, run_id, lock=True)
    if run.kind == "external":
        if not _move(s, run_id, RUNNING, CANCELED, "user", "canceled"):
            raise Conflict(f"the run is {run.state}; only a run that has not ended can be canceled")
        return get_run(s, run_id)
    if run.state in (QUEUED, PAUSED):
        reason = "canceled before it ran" if run.attempt == 0 else "canceled"
        _move(s, run_id, run.state, CANCELED, "user", reason)
        return get_run(s, run_id)
    return _ask(s, run_id, "cancel_requested", "cancel asked for", "canceled")


def request_pause(s: Session, run_id: str) -> Run:
    """Ask the trainer to write a checkpoint and stop. Raises: NotFound; Conflict when it does not run."""
    if get_run(s, run_id, lock=True).kind == "external":
        raise Conflict("an outside script drives this run; pause it there")
    return _ask(s, run_id, "pause_requested", "pause asked for", "paused")


def _ask(s: Session, run_id: str, flag: str, reason: str, verb: str) -> Run:
    at = now(s)
    column: Any = getattr(Run, flag)
    asked = s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.state) == RUNNING, column.is_(False))
        .values({flag: True, **_touched(at)})
    )
    run = get_run(s, run_id)
    if run.state != RUNNING:
        raise Conflict(f"the run is {run.state}; only a run that has not ended can be {verb}")
    if asked.rowcount:  # type: ignore[attr-defined]
        _record(s, run_id, at, RUNNING, RUNNING, "user", reason, run.attempt)
    return run


def resume_run(s: Session, run_id: str) -> Run:
    """paused, failed or canceled -> queued, as a new attempt from the last checkpoint.

    Raises: NotFound; Conflict from any other state.
    """
    run = get_run(s, run_id, lock=True)
    at = now(s)
    fresh: dict[str, Any] = {
        "queued_at": at, "published_at": None, "not_before": 0.0, "failures": 0, "error": None, "error_tail": None,
        "ended_at": None,
    }  # fmt: skip
    if run.kind == "training" and run.state in (PAUSED, FAILED, CANCELED):
        _move(s, run_id, run.state, QUEUED, "user", "resumed", **fresh)
        return get_run(s, run_id)
    raise Conflict(f"the run is {run.state}; only a paused, failed or canceled training can be resumed")


def finish_external(s: Session, run_id: str, to_state: str, error: str | None) -> Run:
    """running -> finished, failed or canceled for a run that an outside script drives.

    Raises: NotFound; Conflict when a worker drives it or it has ended.
    """
    run = get_run(s, run_id)
    if run.kind != "external":
        raise Conflict("a worker drives this run and ends it; cancel it instead")
    if not _move(s, run_id, RUNNING, to_state, "script", error or "ended by the script", error=error):
        raise Conflict(f"the run is {run.state} already")
    return get_run(s, run_id)


def append_external(s: Session, run_id: str, batch: str | None, points: series.Points) -> tuple[int, bool]:
    """The new cursor, and whether anything was written: a batch id seen before changes nothing.

    Raises: NotFound; Conflict when a worker drives the run or it has ended.
    """
    at = now(s)
    values: dict[str, Any] = {"seq": col(Run.seq) + 1, **_touched(at)}
    seq = s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.kind) == "external", col(Run.state) == RUNNING)
        .values(**values)
        .returning(col(Run.seq))
    ).scalar_one_or_none()
    run = get_run(s, run_id)
    if seq is None:
        if batch is not None and s.get(MetricBatch, (run_id, batch)) is not None:
            return run.seq, False
        if run.kind != "external":
            raise Conflict("a worker drives this run; only an external run takes metrics")
        raise Conflict(f"the run is {run.state}; it takes no more metrics")
    if batch is not None:
        if s.get(MetricBatch, (run_id, batch)) is not None:
            run.seq = seq - 1
            return seq - 1, False
        s.add(MetricBatch(run_id=run_id, batch=batch, at=at))
    series.append_chunks(s, run_id, seq, points)
    run.step = max(run.step, *(int(p.steps[-1]) for p in points.values()))
    return seq, True


def edit_run(
    s: Session,
    run_id: str,
    *,
    name: str | None,
    notes: str | None,
    tags: list[str] | None,
    experiment: str | None,
) -> Run:
    """The run with what is given changed; an empty experiment takes it out of its experiment. Raises: NotFound."""
    run = get_run(s, run_id)
    given = {"name": name, "notes": notes, "tags": tags, "experiment": experiment}
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if experiment == "":
        values["experiment"] = None
    s.execute(update(Run).where(col(Run.id) == run_id).values(**values, **_touched(now(s))))
    s.refresh(run)
    return run


def delete_run(s: Session, run_id: str) -> None:
    """Delete a run with all that it measured. Raises: NotFound; Conflict while it runs or waits."""
    run = get_run(s, run_id)
    gone = s.execute(delete(Run).where(col(Run.id) == run_id, col(Run.state).in_((*ENDED, PAUSED))))
    if not gone.rowcount:  # type: ignore[attr-defined]
        raise Conflict(f"the run is {run.state}; cancel it before you delete it")


def get_run(s: Session, run_id: str, *, lock: bool = False) -> Run:
    """The row as it is now; with `lock`, as it stays until the transaction ends. Raises: NotFound."""
    query = select(Run).where(col(Run.id) == run_id).execution_options(populate_existing=True)
    run = s.exec(query.with_for_update() if lock else query).first()
    if run is None:
        raise NotFound(f"there is no run {run_id!r}")
    return run


def list_events(s: Session, run_id: str) -> Sequence[RunEvent]:
    return s.exec(select(RunEvent).where(col(RunEvent.run_id) == run_id).order_by(col(RunEvent.id))).all()


# -- the reaper's side ----------------------------------------------------------------------------------------------


def reap_expired(s: Session, *, max_failures: int) -> list[tuple[str, str]]:
    """Take back runs whose lease has expired: (id, new state) of each."""
    at = now(s)
    query = select(Run).where(col(Run.state) == RUNNING, col(Run.lease_until) < at)
    expired = s.exec(query.with_for_update(skip_locked=True)).all()
    taken = []
    for run in expired:
        why = f"worker {run.worker} stopped answering"
        state = give_back(s, run, "reaper", why, col(Run.lease_until) < at, max_failures=max_failures)
        if state is not None:
            taken.append((run.id, state))
    return taken


def has_expired(s: Session) -> bool:
    return (
        s.exec(
            select(Run.id).where(col(Run.state) == RUNNING, col(Run.lease_until) < now(s)).limit(1)
        ).first()
        is not None
    )


def has_unpublished(s: Session, *, after_s: float) -> bool:
    return s.exec(select(Run.id).where(*_unpublished(now(s), after_s)).limit(1)).first() is not None


def _unpublished(at: float, after_s: float) -> tuple[ColumnElement[bool], ...]:
    due = or_(col(Run.published_at).is_(None), col(Run.published_at) < at - after_s)
    return (col(Run.state) == QUEUED, col(Run.not_before) <= at, due)


def extend_leases(s: Session, lease_s: float) -> None:
    """Once, after the reaper itself was asleep: the workers may have been asleep with it."""
    s.execute(update(Run).where(col(Run.lease_until).is_not(None)).values(lease_until=now(s) + lease_s))


def take_unpublished(s: Session, *, after_s: float, limit: int = 50) -> list[str]:
    """Ids of queued runs whose message was never sent, or so long ago that it may be lost; marked as sent now."""
    at = now(s)
    query = select(Run.id).where(*_unpublished(at, after_s)).order_by(col(Run.queued_at)).limit(limit)
    ids = list(s.exec(query).all())
    mark_published(s, ids)
    return ids


def mark_published(s: Session, ids: Sequence[str]) -> None:
    if ids:
        s.execute(update(Run).where(col(Run.id).in_(ids)).values(published_at=now(s)))


# -- shared ---------------------------------------------------------------------------------------------------------


def _move(
    s: Session,
    run_id: str,
    from_state: str,
    to_state: str,
    actor: str,
    reason: str,
    *guards: ColumnElement[bool],
    **values: Any,
) -> bool:
    """Compare-and-set of the state, with its event. False when the run was not in `from_state`, or a guard failed."""
    at = now(s)
    idle: dict[str, Any] = {"lease_until": None, "phase": "", "step_rate": None}
    idle |= {"cancel_requested": False, "pause_requested": False}
    values = {**idle, **values, **_touched(at)}
    if to_state in ENDED:
        values["ended_at"] = at
    attempt = s.execute(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.state) == from_state, *guards)
        .values(state=to_state, **values)
        .returning(col(Run.attempt))
    ).scalar_one_or_none()
    if attempt is None:
        return False
    _record(s, run_id, at, from_state, to_state, actor, reason, attempt)
    return True


def _touched(at: float) -> dict[str, Any]:
    return {"updated_at": at, "revision": col(Run.revision) + 1}


def _record(
    s: Session, run_id: str, at: float, before: str | None, after: str, actor: str, reason: str, attempt: int
) -> None:
    s.execute(
        insert(RunEvent).values(
            run_id=run_id,
            at=at,
            from_state=before,
            to_state=after,
            actor=actor,
            reason=reason,
            attempt=attempt,
        )
    )


def _clip(tail: str | None) -> str | None:
    return tail[-TAIL_BYTES:] if tail is not None else None
