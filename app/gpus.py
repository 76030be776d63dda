"""Which queued runs wait for GPUs that no worker has, and the words that tell people so.

Such a run does not fail: its message lies where only workers with so many GPUs read (`app.queue.queue_of`), so it
starts as soon as one comes. The note is the run's phase, which a claim replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel import Session, col, select

from app import runs, workers
from app.models import QUEUED, Run

MOST = 200  # runs whose notes are looked at: those that are next


def count_needed(spec: Mapping[str, Any]) -> int:
    """How many GPUs of one host a stored spec cannot do without, as `RunSpec.gpus`; one from before has one device."""
    return int(spec.get("devices", 1)) if spec.get("device") == "cuda" else 0


def read_needed(s: Session, run_ids: Sequence[str]) -> dict[str, int]:
    """The same of stored runs, by id."""
    rows = s.exec(select(Run.id, Run.spec).where(col(Run.id).in_(run_ids))).all()
    return {run_id: count_needed(spec) for run_id, spec in rows}


def find_changed(s: Session) -> list[Run]:
    """Queued runs whose note says something else than what is now, or nothing yet."""
    asks = col(Run.spec)["device"].as_string() == "cuda"
    query = select(Run).where(col(Run.state) == QUEUED, asks).order_by(col(Run.queued_at)).limit(MOST)
    waiting = s.exec(query).all()
    if not waiting:
        return []
    most = count_most(s)
    return [run for run in waiting if _is_ours(run.phase) and run.phase != explain(run.spec, most)]


def note_missing(s: Session, some: Sequence[Run]) -> None:
    """Say of these runs, as far as they are queued, whether they wait for GPUs that no worker has."""
    asking = [run for run in some if run.kind == "training" and count_needed(run.spec)]
    most = count_most(s) if asking else 0
    for run in asking:
        runs.say_waiting(s, run.id, explain(run.spec, most))


def explain(spec: Mapping[str, Any], most: int) -> str:
    """What a run waits for while no worker has more than `most` GPUs for one run; empty when one has enough."""
    needed = count_needed(spec)
    if needed <= most:
        return ""
    if needed == 1:
        return "waits for a GPU; no worker has one"
    if most == 0:
        return f"waits for {needed} GPUs of one host; no worker has any"
    return f"waits for {needed} GPUs of one host; no worker here has more than {most}"


def _is_ours(phase: str) -> bool:
    """Whether a queued run's phase is nobody else's: a worker short of disk space says so there too."""
    return not phase or (phase.startswith("waits for ") and " GPU" in phase)


def count_most(s: Session) -> int:
    """The most GPUs that one run can have on a worker that is here and stays."""
    return max((worker.gpus for worker in workers.list_present(s) if not worker.drain), default=0)
