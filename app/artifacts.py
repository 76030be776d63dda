"""Small files that runs produce while they train, kept in the database (SQL). Checkpoints are files of a run's folder.

`store` is part of the flush that holds the numbers that an artifact belongs to, so the two are seen together or not at
all; (run, name) is unique, and a later attempt's replaces an earlier one's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import delete, text
from sqlmodel import Session, col, select

from app.models import Artifact, MetricSummary

LABELS, PREDICTIONS, LOGITS = "labels", "predictions", "logits"
MAX_KEPT = 64  # evaluations of a run whose predictions are kept


@dataclass(frozen=True)
class NewArtifact:
    """A file to store. `step` is what it was measured after: a new attempt forgets those behind its checkpoint."""

    name: str
    kind: str
    step: int
    epoch: int
    media_type: str
    content: bytes


class Listed(NamedTuple):
    """An artifact without its content."""

    run_id: str
    name: str
    kind: str
    step: int
    epoch: int
    media_type: str
    size_bytes: int
    sha256: str
    created_at: float


_UPSERT = text("""
INSERT INTO artifact (run_id, name, kind, step, epoch, media_type, size_bytes, sha256, created_at, content)
VALUES (:run_id, :name, :kind, :step, :epoch, :media_type, :size_bytes, :sha256, :created_at, :content)
ON CONFLICT (run_id, name) DO UPDATE SET
  kind = excluded.kind, step = excluded.step, epoch = excluded.epoch, media_type = excluded.media_type,
  size_bytes = excluded.size_bytes, sha256 = excluded.sha256, created_at = excluded.created_at,
  content = excluded.content
""")

_COLUMNS: list[Any] = [getattr(Artifact, name) for name in Listed._fields]


def store(s: Session, run_id: str, artifacts: Sequence[NewArtifact], at: float) -> None:
    """Write these, in the caller's transaction, after the points that they belong to; thin out what grows too many."""
    for one in artifacts:
        row = {"run_id": run_id, "size_bytes": len(one.content), "created_at": at}
        row |= {"sha256": hashlib.sha256(one.content).hexdigest(), **vars(one)}
        s.connection().execute(_UPSERT, row)
    if any(one.kind == PREDICTIONS for one in artifacts):
        _thin_out(s, run_id)
    if any(one.kind == LOGITS for one in artifacts):
        _keep_best_and_last(s, run_id)


def _thin_out(s: Session, run_id: str) -> None:
    """Of more than MAX_KEPT evaluations keep every second, fourth, ... epoch, the best one and the last."""
    kept = list_artifacts(s, [run_id], PREDICTIONS)[run_id]
    if len(kept) <= MAX_KEPT:
        return
    best = best_steps(s, [run_id]).get(run_id)
    stride = 1
    while sum(one.epoch % stride == 0 for one in kept) > MAX_KEPT // 2:
        stride *= 2
    stays = {one.step for one in kept if one.epoch % stride == 0} | {best, kept[-1].step}
    gone = [one.name for one in kept if one.step not in stays]
    s.execute(delete(Artifact).where(col(Artifact.run_id) == run_id, col(Artifact.name).in_(gone)))


def _keep_best_and_last(s: Session, run_id: str) -> None:
    """Of the logits: a hundred times the size of the predictions."""
    kept = list_artifacts(s, [run_id], LOGITS)[run_id]
    stays = {best_steps(s, [run_id]).get(run_id), kept[-1].step}
    gone = [one.name for one in kept if one.step not in stays]
    if gone:
        s.execute(delete(Artifact).where(col(Artifact.run_id) == run_id, col(Artifact.name).in_(gone)))


def truncate_after(s: Session, run_id: str, step: int) -> None:
    """Forget what was measured behind `step`: a new attempt will measure it again."""
    s.execute(delete(Artifact).where(col(Artifact.run_id) == run_id, col(Artifact.step) > step))


def list_artifacts(s: Session, run_ids: Sequence[str], kind: str | None = None) -> dict[str, list[Listed]]:
    """What these runs have, by run, in order of step and name; without the contents."""
    found: dict[str, list[Listed]] = {run_id: [] for run_id in run_ids}
    query = select(*_COLUMNS).where(col(Artifact.run_id).in_(run_ids))
    if kind is not None:
        query = query.where(col(Artifact.kind) == kind)
    for row in s.execute(query.order_by(col(Artifact.run_id), col(Artifact.step), col(Artifact.name))):
        found[row.run_id].append(Listed(*row))
    return found


def read_artifact(s: Session, run_id: str, name: str) -> Artifact | None:
    return s.get(Artifact, (run_id, name))


def read_contents(s: Session, names: Mapping[str, str]) -> dict[str, bytes]:
    """The content of one artifact a run, by run; `names` maps run -> name. What is not there is left out."""
    query = select(Artifact.run_id, Artifact.name, Artifact.content).where(
        col(Artifact.run_id).in_(names), col(Artifact.name).in_(set(names.values()))
    )
    return {run_id: content for run_id, name, content in s.exec(query) if names[run_id] == name}


def best_steps(s: Session, run_ids: Sequence[str]) -> dict[str, int]:
    """The step of each run's highest validation accuracy (the first of equals), by run."""
    query = select(MetricSummary.run_id, MetricSummary.max_step).where(
        col(MetricSummary.run_id).in_(run_ids), col(MetricSummary.metric) == "val/accuracy"
    )
    return {run_id: step for run_id, step in s.exec(query) if step is not None}
