"""The metric store: append a chunk, cut a tail, read a window of steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import bindparam, delete, insert, text
from sqlmodel import Session, col, select

from app.chunks import (
    EMPTY,
    Block,
    ChunkRow,
    Points,
    chunk_row,
    cut_block,
    join_blocks,
    make_block,
    unpack,
)
from app.models import MetricChunk, MetricSummary

__all__ = [  # what callers need of the blocks that they write and read
    "EMPTY", "Block", "ChunkRow", "Points", "append_chunks", "list_summaries", "make_block", "read_blocks",
    "read_since", "truncate_after", "unpack",
]  # fmt: skip

# -- write ----------------------------------------------------------------------------------------------------------

# Built once: a trainer appends several times a second beside the training loop.
_INSERT_CHUNK = insert(MetricChunk)

_LAST_STEPS = text(
    "SELECT metric, last_step FROM metric_summary WHERE run_id = :run_id AND metric IN :metrics"
).bindparams(bindparam("metrics", expanding=True))

_UPSERT_SUMMARY = text("""
INSERT INTO metric_summary (run_id, metric, count, nonfinite, last, last_step, min, min_step, max, max_step)
VALUES (:run_id, :metric, :count, :nonfinite, :last, :last_step, :min, :min_step, :max, :max_step)
ON CONFLICT (run_id, metric) DO UPDATE SET
  count = metric_summary.count + excluded.count,
  nonfinite = metric_summary.nonfinite + excluded.nonfinite,
  last = excluded.last, last_step = excluded.last_step,
  min_step = CASE WHEN metric_summary.min IS NULL OR excluded.min < metric_summary.min
                  THEN excluded.min_step ELSE metric_summary.min_step END,
  min = CASE WHEN metric_summary.min IS NULL OR excluded.min < metric_summary.min
             THEN excluded.min ELSE metric_summary.min END,
  max_step = CASE WHEN metric_summary.max IS NULL OR excluded.max > metric_summary.max
                  THEN excluded.max_step ELSE metric_summary.max_step END,
  max = CASE WHEN metric_summary.max IS NULL OR excluded.max > metric_summary.max
             THEN excluded.max ELSE metric_summary.max END
""")


def append_chunks(s: Session, run_id: str, seq: int, points: Points) -> None:
    """Store one flush: a chunk a metric, and the summaries. Blocks are sorted and of at least one point."""
    if not points:
        return
    s.connection().execute(_INSERT_CHUNK, [chunk_row(run_id, m, seq, block) for m, block in points.items()])
    behind = _last_steps(s, run_id, points)
    appended = {m: b for m, b in points.items() if b.steps[0] > behind.get(m, -1)}
    if appended:
        s.connection().execute(_UPSERT_SUMMARY, [summary_row(run_id, m, b) for m, b in appended.items()])
    rewritten = points.keys() - appended.keys()
    if rewritten:  # an outside script sent earlier steps again: counts and extremes must be seen anew
        _rebuild_summaries(s, run_id, sorted(rewritten))


def _last_steps(s: Session, run_id: str, metrics: Iterable[str]) -> dict[str, int]:
    rows = s.connection().execute(_LAST_STEPS, {"run_id": run_id, "metrics": list(metrics)})
    return {row.metric: row.last_step for row in rows}


def summary_row(run_id: str, metric: str, block: Block) -> dict[str, Any]:
    finite = np.flatnonzero(np.isfinite(block.values))
    row: dict[str, Any] = {
        "run_id": run_id,
        "metric": metric,
        "count": len(block.steps),
        "nonfinite": len(block.steps) - finite.size,
        "last": float(block.values[-1]) if np.isfinite(block.values[-1]) else None,
        "last_step": int(block.steps[-1]),
        "min": None,
        "min_step": None,
        "max": None,
        "max_step": None,
    }
    if finite.size:
        low, high = finite[block.values[finite].argmin()], finite[block.values[finite].argmax()]
        row |= {"min": float(block.values[low]), "min_step": int(block.steps[low])}
        row |= {"max": float(block.values[high]), "max_step": int(block.steps[high])}
    return row


def _rebuild_summaries(s: Session, run_id: str, metrics: Sequence[str]) -> None:
    s.execute(
        delete(MetricSummary).where(
            col(MetricSummary.run_id) == run_id, col(MetricSummary.metric).in_(metrics)
        )
    )
    for metric in metrics:
        block = read_blocks(s, [run_id], [metric]).get((run_id, metric), EMPTY)
        if len(block.steps):
            s.execute(insert(MetricSummary).values(summary_row(run_id, metric, block)))


def truncate_after(s: Session, run_id: str, step: int) -> None:
    """Forget every point behind `step`, so that a new attempt can write those steps again."""
    mine = col(MetricChunk.run_id) == run_id
    behind = (mine, col(MetricChunk.last_step) > step)
    touched = [ChunkRow(*row) for row in s.execute(select(*_COLUMNS).where(*behind))]
    if not touched:
        return
    s.execute(delete(MetricChunk).where(*behind))
    for chunk in touched:
        block = unpack(chunk)
        kept = int(np.searchsorted(block.steps, step, side="right"))
        if kept:
            cut = chunk_row(run_id, chunk.metric, chunk.seq, block.part(slice(kept)))
            s.execute(insert(MetricChunk).values(cut))
    _rebuild_summaries(s, run_id, sorted({chunk.metric for chunk in touched}))


# -- read -----------------------------------------------------------------------------------------------------------


_COLUMNS: list[Any] = [
    MetricChunk.run_id,
    MetricChunk.metric,
    MetricChunk.seq,
    MetricChunk.first_step,
    MetricChunk.count,
    MetricChunk.steps,
    MetricChunk.times,
    MetricChunk.vals,
]


def read_blocks(
    s: Session,
    run_ids: Sequence[str],
    metrics: Sequence[str],
    from_step: int | None = None,
    to_step: int | None = None,
) -> dict[tuple[str, str], Block]:
    """All points in a window of steps, by (run, metric); where steps overlap, the later flush wins."""
    query = select(*_COLUMNS).where(
        col(MetricChunk.run_id).in_(run_ids), col(MetricChunk.metric).in_(metrics)
    )
    if from_step is not None:
        query = query.where(col(MetricChunk.last_step) >= from_step)
    if to_step is not None:
        query = query.where(col(MetricChunk.first_step) <= to_step)
    found: dict[tuple[str, str], list[Block]] = {}
    for row in s.execute(
        query.order_by(col(MetricChunk.run_id), col(MetricChunk.metric), col(MetricChunk.seq))
    ):
        chunk = ChunkRow(*row)
        found.setdefault((chunk.run_id, chunk.metric), []).append(unpack(chunk))
    return {key: cut_block(join_blocks(blocks), from_step, to_step) for key, blocks in found.items()}


def read_since(s: Session, run_id: str, seq: int, limit: int) -> list[ChunkRow]:
    """Chunks flushed after `seq`, in order of flush, at most about `limit` of them (a flush is never torn)."""
    rows = s.execute(
        select(*_COLUMNS)
        .where(col(MetricChunk.run_id) == run_id, col(MetricChunk.seq) > seq)
        .order_by(col(MetricChunk.seq), col(MetricChunk.metric))
        .limit(limit)
    ).all()
    chunks = [ChunkRow(*row) for row in rows]
    if len(chunks) == limit:
        whole = [chunk for chunk in chunks if chunk.seq < chunks[-1].seq]
        chunks = whole or chunks
    return chunks


def list_summaries(s: Session, run_ids: Sequence[str]) -> dict[str, list[MetricSummary]]:
    """Summaries of every series of these runs, by run, in order of name."""
    found: dict[str, list[MetricSummary]] = {run_id: [] for run_id in run_ids}
    query = (
        select(MetricSummary)
        .where(col(MetricSummary.run_id).in_(run_ids))
        .order_by(col(MetricSummary.metric))
    )
    for row in s.exec(query):
        found[row.run_id].append(row)
    return found
