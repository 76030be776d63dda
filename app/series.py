"""The metric store: append a chunk, cut a tail, read a window reduced to N points with its extremes kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, delete, insert, text
from sqlmodel import Session, col, select
from tsdownsample import M4Downsampler

from app.models import MetricChunk, MetricSummary

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class Block(NamedTuple):
    """Points of one series, by rising step: steps [N] int64, times [N] Unix seconds, values [N] float64."""

    steps: Ints
    times: Floats
    values: Floats


Points: TypeAlias = Mapping[str, Block]

EMPTY = Block(np.empty(0, np.int64), np.empty(0), np.empty(0))


def make_block(
    steps: Sequence[int] | Ints, times: Sequence[float] | Floats, values: Sequence[float] | Floats
) -> Block:
    """A block sorted by step; of equal steps the last given stays."""
    block = Block(np.asarray(steps, "<i8"), np.asarray(times, "<f8"), np.asarray(values, "<f8"))
    if len(block.steps) > 1 and not (np.diff(block.steps) > 0).all():
        return last_of_each_step(block)
    return block


def last_of_each_step(block: Block) -> Block:
    order = np.argsort(block.steps, kind="stable")
    steps = block.steps[order]
    keep = order[np.append(steps[1:] != steps[:-1], True)]
    return Block(block.steps[keep], block.times[keep], block.values[keep])


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


def chunk_row(run_id: str, metric: str, seq: int, block: Block) -> dict[str, Any]:
    finite = block.values[np.isfinite(block.values)]
    first, last = int(block.steps[0]), int(block.steps[-1])
    consecutive = last - first + 1 == len(block.steps)
    return {
        "run_id": run_id,
        "metric": metric,
        "seq": seq,
        "first_step": first,
        "last_step": last,
        "count": len(block.steps),
        "min": float(finite.min()) if finite.size else None,
        "max": float(finite.max()) if finite.size else None,
        "sum": _sum(finite),
        "steps": b"" if consecutive else block.steps.astype("<i8").tobytes(),
        "times": block.times.astype("<f8").tobytes(),
        "vals": block.values.astype("<f8").tobytes(),
    }


def _sum(finite: Floats) -> float | None:
    """None without values, and where the sum is too large for a number."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(finite.sum())
    return total if finite.size and np.isfinite(total) else None


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
            cut = Block(block.steps[:kept], block.times[:kept], block.values[:kept])
            s.execute(insert(MetricChunk).values(chunk_row(run_id, chunk.metric, chunk.seq, cut)))
    _rebuild_summaries(s, run_id, sorted({chunk.metric for chunk in touched}))


# -- read -----------------------------------------------------------------------------------------------------------


class ChunkRow(NamedTuple):
    """The columns of a chunk that hold its points."""

    run_id: str
    metric: str
    seq: int
    first_step: int
    length: int
    steps: bytes
    times: bytes
    vals: bytes


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


def unpack(chunk: ChunkRow) -> Block:
    steps = (
        np.frombuffer(chunk.steps, "<i8")
        if chunk.steps
        else np.arange(chunk.first_step, chunk.first_step + chunk.length, dtype=np.int64)
    )
    return Block(steps, np.frombuffer(chunk.times, "<f8"), np.frombuffer(chunk.vals, "<f8"))


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
    return {key: _window(_joined(blocks), from_step, to_step) for key, blocks in found.items()}


def _joined(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    whole = Block(*(np.concatenate(part) for part in zip(*blocks, strict=True)))
    return whole if (np.diff(whole.steps) > 0).all() else last_of_each_step(whole)


def _window(block: Block, from_step: int | None, to_step: int | None) -> Block:
    low = 0 if from_step is None else int(np.searchsorted(block.steps, from_step, side="left"))
    high = len(block.steps) if to_step is None else int(np.searchsorted(block.steps, to_step, side="right"))
    return Block(block.steps[low:high], block.times[low:high], block.values[low:high])


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


def reduce_to(x: Floats, values: Floats, points: int) -> Ints:
    """Indices of at most `points` points that draw the same line.

    M4 (Jugel et al., VLDB 2014) over equal buckets of x: first, lowest, highest and last point of each, so that no
    spike is lost. Points that are not finite are kept beside them: all, or where they are more than a quarter of the
    budget the first in each of as many equal buckets of x. `points` is at least 8.
    """
    if len(values) <= points:
        return np.arange(len(values), dtype=np.int64)
    finite = np.isfinite(values)
    odd = np.flatnonzero(~finite)
    if odd.size > points // 4:
        count, first, last = points // 4, x[odd[0]], x[odd[-1]]
        bucket = np.minimum((x[odd] - first) / max(last - first, 1e-300) * count, count - 1).astype(np.int64)
        odd = odd[np.unique(bucket, return_index=True)[1]]
    even = np.flatnonzero(finite)
    budget = max(4, (points - odd.size) // 4 * 4)
    if even.size > budget:
        even = even[_m4(x[even], values[even], budget // 4)]
    return np.sort(np.concatenate([even, odd]))


def _m4(x: Floats, values: Floats, buckets: int) -> Ints:
    if buckets == 1:  # the library wants two at least
        return np.unique(np.asarray([0, values.argmin(), values.argmax(), len(values) - 1], np.int64))
    kept = M4Downsampler().downsample(  # type: ignore[no-untyped-call]
        np.ascontiguousarray(x), np.ascontiguousarray(values), n_out=4 * buckets
    )
    return np.unique(kept).astype(np.int64)


def json_floats(values: Floats) -> list[float | str]:
    """Plain numbers, and "NaN", "Infinity", "-Infinity" as those strings: JSON has no token for them."""
    plain: list[float | str] = values.tolist()
    for index in np.flatnonzero(~np.isfinite(values)):
        number = values[index]
        plain[index] = "NaN" if np.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return plain
