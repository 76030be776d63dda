"""How an attempt ends: as its trainer says, given back by a worker that lets go, or taken back after a death.

What a person asked of the run goes first: it is then canceled or paused, whatever else has happened.
"""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from app.db import now
from app.errors import Fenced, NotFound
from app.models import CANCELED, FAILED, PAUSED, QUEUED, RUNNING, Run
from app.runs.reading import get_run, step_kept
from app.runs.requests import asked_for
from app.runs.transition import transition

TAIL_BYTES = 20_000
BACK_OFF_S = (1.0, 5.0, 25.0)  # after the first, second and any further failure


def end_run(
    s: Session, run_id: str, attempt: int, to_state: str, actor: str, reason: str, *, tail: str | None = None
) -> None:
    """running -> finished, failed, canceled or paused, by the attempt that holds the run.

    Raises: Fenced when it does not hold it any more.
    """
    run = _held(s, run_id, attempt)
    if run is None:
        raise Fenced(f"attempt {attempt} of run {run_id} does not hold it any more")
    asked = asked_for(s, run)
    if to_state in (PAUSED, CANCELED) and asked is not None:
        _do_as_asked(s, run, asked)
        return
    values: dict[str, Any] = {"error": reason} if to_state == FAILED else {}
    transition(s, run_id, RUNNING, to_state, actor, reason, error_tail=_clip(tail), **values)


def release_run(s: Session, run_id: str, attempt: int, actor: str, reason: str) -> bool:
    """running -> queued by a worker that lets go in good order; not counted as a failure.

    Canceled or paused instead where that was asked for. False when the attempt does not hold the run any more.
    """
    run = _held(s, run_id, attempt)
    if run is None:
        return False
    asked = asked_for(s, run)
    if asked is not None:
        _do_as_asked(s, run, asked)
    else:
        reason = describe_return(reason, run)
        transition(s, run_id, RUNNING, QUEUED, actor, reason, queued_at=now(s), published_at=None)
    return True


def give_back(
    s: Session, run: Run, actor: str, reason: str, *, max_failures: int, tail: str | None = None
) -> str | None:
    """After an attempt died: running -> queued, failed, or what was asked for. The state it got; None when fenced.

    `run` names the attempt.
    """
    current = _held(s, run.id, run.attempt)
    if current is None:
        return None
    asked = asked_for(s, current)
    if asked is not None:
        return _do_as_asked(s, current, asked, reason)
    failures = current.failures + 1
    values: dict[str, Any] = {"failures": failures, "error_tail": _clip(tail)}
    if failures >= max_failures:
        reason = f"{reason}; gave up after {failures} failed attempts"
        transition(s, run.id, RUNNING, FAILED, actor, reason, error=reason, **values)
        return FAILED
    at, wait_s = now(s), BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1]
    values |= {"queued_at": at, "published_at": None, "not_before": at + wait_s}
    transition(s, run.id, RUNNING, QUEUED, actor, describe_return(reason, current, wait_s), **values)
    return QUEUED


def describe_return(reason: str, run: Run, wait_s: float = 0.0) -> str:
    """Why a run goes back to the queue, with what becomes of it there."""
    kept = step_kept(run)
    if kept and wait_s:
        return f"{reason}; resumes from step {kept:,} in {wait_s:g} s"
    if kept:
        return f"{reason}; resumes from step {kept:,}"
    if wait_s:
        return f"{reason}; starts again from the beginning in {wait_s:g} s"
    return f"{reason}; starts again from the beginning"


def _held(s: Session, run_id: str, attempt: int) -> Run | None:
    """The run, locked, if this attempt still holds it."""
    try:
        run = get_run(s, run_id, lock=True)
    except NotFound:
        return None
    return run if (run.attempt, run.state) == (attempt, RUNNING) else None


def _do_as_asked(s: Session, run: Run, asked: tuple[str, str], why: str = "") -> str:
    """running -> canceled or paused, by who asked for it; `why` when it was not the trainer that did it."""
    state, who = asked
    reason = f"canceled at step {run.step:,}" if state == CANCELED else f"paused at step {run.step:,}"
    if why:
        reason = f"{reason}: {why}"
    transition(s, run.id, RUNNING, state, who, reason)
    return state


def _clip(tail: str | None) -> str | None:
    return tail[-TAIL_BYTES:] if tail is not None else None
