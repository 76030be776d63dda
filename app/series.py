"""The metric store: append a chunk, cut a tail, read a window of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import bindparam, delete, insert, literal, text
from sqlmodel import Session, col, select

from app.chunks import (
    EMPTY,
    Block,
    ChunkRow,
    Packed,
    Points,
    chunk_row,
    cut_block,
    cut_chunk,
    join_packed,
    make_block,
    unpack_after,
)
from app.models import MetricChunk, MetricSummary

__all__ = [  # what callers need of the blocks that they write and read
    "CHUNK_COLUMNS", "EMPTY", "Block", "Flushed", "Head", "Points", "append_chunks", "count_points",
    "list_summaries", "make_block", "read_blocks", "read_chunks", "read_heads", "read_since", "truncate_after",
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


def truncate_after(s: Session, run_id: str, step: int, *, of: str = "") -> None:
    """Forget every point behind `step`, so that a new attempt can write those steps again: of metrics named `of`..."""
    mine = col(MetricChunk.run_id) == run_id
    behind = (
        mine,
        col(MetricChunk.last_step) > step,
        col(MetricChunk.metric).startswith(of, autoescape=True),
    )
    touched = [ChunkRow(*row) for row in s.execute(select(*CHUNK_COLUMNS).where(*behind))]
    if not touched:
        return
    s.execute(delete(MetricChunk).where(*behind))
    kept = [row for row in (cut_chunk(chunk, step) for chunk in touched) if row is not None]
    if kept:
        s.connection().execute(_INSERT_CHUNK, kept)
    _rebuild_summaries(s, run_id, sorted({chunk.metric for chunk in touched}))


# -- read -----------------------------------------------------------------------------------------------------------

CHUNK_COLUMNS: list[Any] = [
    MetricChunk.run_id,
    MetricChunk.metric,
    MetricChunk.seq,
    MetricChunk.first_step,
    MetricChunk.count,
    MetricChunk.steps,
    MetricChunk.times,
    MetricChunk.vals,
    MetricChunk.marks,
]
_PACKED: list[Any] = [
    MetricChunk.run_id,
    MetricChunk.metric,
    MetricChunk.first_step,
    MetricChunk.count,
    MetricChunk.steps,
    MetricChunk.vals,
]
_ORDER: list[Any] = [MetricChunk.run_id, MetricChunk.metric, MetricChunk.seq]


def read_blocks(
    s: Session,
    run_ids: Sequence[str],
    metrics: Sequence[str],
    from_step: int | None = None,
    to_step: int | None = None,
    *,
    times: bool = True,
) -> dict[tuple[str, str], Block]:
    """All points in a window of steps, by (run, metric); where steps overlap, the later flush wins.

    Without `times`, which are as large as the values, times are NaN.
    """
    clock: Any = MetricChunk.times if times else literal(b"")
    columns = [*_PACKED, clock]
    query = select(*columns).where(col(MetricChunk.run_id).in_(run_ids), col(MetricChunk.metric).in_(metrics))
    if from_step is not None:
        query = query.where(col(MetricChunk.last_step) >= from_step)
    if to_step is not None:
        query = query.where(col(MetricChunk.first_step) <= to_step)
    found: dict[tuple[str, str], list[Packed]] = {}
    for run_id, metric, *chunk in s.connection().execute(query.order_by(*_ORDER)):
        found.setdefault((run_id, metric), []).append(Packed(*chunk))
    return {key: cut_block(join_packed(chunks), from_step, to_step) for key, chunks in found.items()}


class Head(NamedTuple):
    """What is known of a chunk without opening it: its ends and extremes, if all of it is finite."""

    seq: int
    first_step: int
    last_step: int
    length: int
    min_step: int
    max_step: int
    first: float
    min: float
    max: float
    last: float
    nonfinite: int | None


_HEAD: list[Any] = [
    MetricChunk.seq,
    MetricChunk.first_step,
    MetricChunk.last_step,
    MetricChunk.count,
    MetricChunk.min_step,
    MetricChunk.max_step,
    MetricChunk.first,
    MetricChunk.min,
    MetricChunk.max,
    MetricChunk.last,
    MetricChunk.nonfinite,
]


def read_heads(s: Session, run_id: str, metric: str) -> list[Head]:
    """Every chunk of a series, in order of flush, unopened."""
    mine = (col(MetricChunk.run_id) == run_id, col(MetricChunk.metric) == metric)
    rows = s.connection().execute(select(*_HEAD).where(*mine).order_by(col(MetricChunk.seq)))
    return [Head(*row) for row in rows]


def read_chunks(s: Session, run_id: str, metric: str, seqs: Sequence[int]) -> Iterator[tuple[int, Packed]]:
    """These chunks of a series, without times."""
    columns: list[Any] = [MetricChunk.seq, *_PACKED[2:], literal(b"")]
    mine = (col(MetricChunk.run_id) == run_id, col(MetricChunk.metric) == metric)
    for first in range(0, len(seqs), 500):
        some = col(MetricChunk.seq).in_(seqs[first : first + 500])
        for seq, *chunk in s.connection().execute(select(*columns).where(*mine, some)):
            yield seq, Packed(*chunk)


def count_points(s: Session, run_ids: Sequence[str], metrics: Sequence[str]) -> dict[tuple[str, str], int]:
    """How many points each series has, by (run, metric); about as many where steps were written again."""
    query: Any = select(MetricSummary.run_id, MetricSummary.metric, col(MetricSummary.count).label("points"))
    mine = (col(MetricSummary.run_id).in_(run_ids), col(MetricSummary.metric).in_(metrics))
    return {(row.run_id, row.metric): row.points for row in s.execute(query.where(*mine))}


class Flushed(NamedTuple):
    """Points of one series that came with one flush, or with several that were compacted; `seq` is the last."""

    run_id: str
    metric: str
    seq: int
    block: Block


# Built once: a hub reads for every watched run, several times a second.
_SINCE = (
    select(*CHUNK_COLUMNS)
    .where(col(MetricChunk.run_id) == bindparam("run_id"), col(MetricChunk.seq) > bindparam("seq"))
    .order_by(col(MetricChunk.seq), col(MetricChunk.metric))
    .limit(bindparam("limit"))
)
_OF_FLUSH = (
    select(*CHUNK_COLUMNS)
    .where(col(MetricChunk.run_id) == bindparam("run_id"), col(MetricChunk.seq) == bindparam("seq"))
    .order_by(col(MetricChunk.metric))
)


def read_since(s: Session, run_id: str, seq: int, limit: int) -> list[Flushed]:
    """What was flushed after `seq`, in order of flush: at most about `limit` chunks (a flush is never torn)."""
    connection = s.connection()
    rows = connection.execute(_SINCE, {"run_id": run_id, "seq": seq, "limit": limit})
    chunks = [ChunkRow(*row) for row in rows]
    if len(chunks) == limit:  # the last flush may have more chunks
        last = chunks[-1].seq
        chunks = [chunk for chunk in chunks if chunk.seq < last] or [
            ChunkRow(*row) for row in connection.execute(_OF_FLUSH, {"run_id": run_id, "seq": last})
        ]
    flushed = [Flushed(c.run_id, c.metric, c.seq, unpack_after(c, seq)) for c in chunks]
    flushed = [one for one in flushed if len(one.block.steps)]
    if flushed or not chunks:
        return flushed
    # A chunk of compacted flushes may hold only what the reader knows: then what it waits for lies behind.
    return read_since(s, run_id, chunks[-1].seq, limit)


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
