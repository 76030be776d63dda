"""Points of one series in memory, and packed as a chunk of the metric store. Pure: numpy, no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class Block(NamedTuple):
    """Points of one series, by rising step: steps [N] int64, times [N] Unix seconds, values [N] float64."""

    steps: Ints
    times: Floats
    values: Floats

    def part(self, index: slice | Ints | NDArray[np.bool_]) -> Block:
        return Block(self.steps[index], self.times[index], self.values[index])


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
    return block.part(order[np.append(steps[1:] != steps[:-1], True)])


def cut_block(block: Block, from_step: int | None, to_step: int | None) -> Block:
    """The points of a window of steps, both ends included."""
    low = 0 if from_step is None else int(np.searchsorted(block.steps, from_step, side="left"))
    high = len(block.steps) if to_step is None else int(np.searchsorted(block.steps, to_step, side="right"))
    return block if (low, high) == (0, len(block.steps)) else block.part(slice(low, high))


# -- packed -----------------------------------------------------------------------------------------------------------


class ChunkRow(NamedTuple):
    """The columns of a chunk that hold its points.

    `marks` (None for one flush) is [K, 2] uint32: runs of points, by rising step, that came with one flush, as (how far
    that flush lies before `seq`, how many points). So a reader whose cursor lies among compacted flushes is given what
    it has not seen, and nothing twice.
    """

    run_id: str
    metric: str
    seq: int
    first_step: int
    length: int
    steps: bytes
    times: bytes
    vals: bytes
    marks: bytes | None = None


def chunk_row(run_id: str, metric: str, seq: int, block: Block, seqs: Ints | None = None) -> dict[str, Any]:
    """A row of `metric_chunk`. Blocks are sorted and of at least one point; `seqs` [N] is each point's flush."""
    first, last = int(block.steps[0]), int(block.steps[-1])
    consecutive = last - first + 1 == len(block.steps)
    return {
        "run_id": run_id,
        "metric": metric,
        "seq": seq,
        "first_step": first,
        "last_step": last,
        "count": len(block.steps),
        **_statistics(block),
        "steps": b"" if consecutive else block.steps.astype("<i8").tobytes(),
        "times": block.times.astype("<f8").tobytes(),
        "vals": block.values.astype("<f4" if is_float32(block.values) else "<f8").tobytes(),
        "marks": None if seqs is None else _write_marks(seq, seqs),
    }


def _statistics(block: Block) -> dict[str, Any]:
    """What a bucket needs of a chunk that lies wholly inside it, over finite values: None without any."""
    values, where = block.values, np.flatnonzero(np.isfinite(block.values))
    finite = values if where.size == values.size else values[where]
    row: dict[str, Any] = {"nonfinite": values.size - where.size, "first": None, "last": None}
    row |= {"min": None, "min_step": None, "max": None, "max_step": None, "sum": _sum(finite)}
    if not where.size:
        return row
    low, high = where[finite.argmin()], where[finite.argmax()]
    row |= {"min": float(values[low]), "min_step": int(block.steps[low])}
    row |= {"max": float(values[high]), "max_step": int(block.steps[high])}
    if not row["nonfinite"]:
        row |= {"first": float(values[0]), "last": float(values[-1])}
    return row


def _sum(finite: Floats) -> float | None:
    """None without values, and where the sum is too large for a number."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(finite.sum())
    return total if finite.size and np.isfinite(total) else None


def is_float32(values: Floats) -> bool:
    """Whether every number survives a float32 bit for bit, signed zeros, NaN and infinities among them."""
    with np.errstate(over="ignore", invalid="ignore"):
        back = values.astype(np.float32).astype(np.float64)
    return np.array_equal(back.view(np.int64), np.ascontiguousarray(values, np.float64).view(np.int64))


def unpack(chunk: ChunkRow) -> Block:
    return Block(
        unpack_steps(chunk.steps, chunk.first_step, chunk.length),
        np.frombuffer(chunk.times, "<f8"),
        unpack_values(chunk.vals, chunk.length).astype(np.float64, copy=False),
    )


def unpack_steps(packed: bytes, first_step: int, length: int) -> Ints:
    if packed:
        return np.frombuffer(packed, "<i8")
    return np.arange(first_step, first_step + length, dtype=np.int64)


def unpack_values(packed: bytes, length: int) -> NDArray[Any]:
    """[N] float32 or float64, as stored."""
    return np.frombuffer(packed, "<f4" if len(packed) == 4 * length else "<f8")


class Packed(NamedTuple):
    """What a reader of values needs of a chunk; `times` is empty when it does not need them."""

    first_step: int
    length: int
    steps: bytes
    vals: bytes
    times: bytes


def join_packed(chunks: Sequence[Packed]) -> Block:
    """One block of a series' chunks, given by rising seq: where steps overlap, the later flush wins.

    Chunks may be thousands, of few points each: the usual ones, whose steps go on without a gap, cost no array each.
    Times that were not read are NaN and take no memory.
    """
    firsts, lengths, packed_steps, vals, times = zip(*chunks, strict=True)
    total = sum(lengths)
    in_order = True
    if not any(packed_steps) and all(a.first_step + a.length == b.first_step for a, b in pairwise(chunks)):
        steps = np.arange(firsts[0], firsts[0] + total, dtype=np.int64)
    else:
        parts = [unpack_steps(chunk.steps, chunk.first_step, chunk.length) for chunk in chunks]
        in_order = all(a[-1] < b[0] for a, b in pairwise(parts))
        steps = np.concatenate(parts)
    if sum(map(len, vals)) in (4 * total, 8 * total):  # all of one width
        values = unpack_values(b"".join(vals), total).astype(np.float64, copy=False)
    else:
        values = np.concatenate(
            [unpack_values(*one) for one in zip(vals, lengths, strict=True)], dtype=np.float64
        )
    clock = (
        np.frombuffer(b"".join(times), "<f8") if times[0] else np.broadcast_to(np.float64(np.nan), (total,))
    )
    block = Block(steps, clock, values)
    return block if in_order else last_of_each_step(block)


def unpack_after(chunk: ChunkRow, seq: int) -> Block:
    """The points that came with flushes after `seq`."""
    block = unpack(chunk)
    return block if chunk.marks is None else block.part(seqs_of(chunk) > seq)


def seqs_of(chunk: ChunkRow) -> Ints:
    """The flush that each point came with [N] int64."""
    if chunk.marks is None:
        return np.full(chunk.length, chunk.seq, np.int64)
    marks = np.frombuffer(chunk.marks, "<u4").reshape(-1, 2).astype(np.int64)
    return np.repeat(chunk.seq - marks[:, 0], marks[:, 1])


def _write_marks(seq: int, seqs: Ints) -> bytes:
    starts = np.flatnonzero(np.append(True, seqs[1:] != seqs[:-1]))
    counts = np.diff(np.append(starts, len(seqs)))
    return np.stack([seq - seqs[starts], counts], axis=1).astype("<u4").tobytes()


def merge_chunks(chunks: Sequence[ChunkRow], seq: int) -> dict[str, Any]:
    """One row of several chunks of a series, given by rising seq; where steps overlap, the later flush wins."""
    steps, times, values = (np.concatenate(part) for part in zip(*map(unpack, chunks), strict=True))
    seqs = np.concatenate([seqs_of(chunk) for chunk in chunks])
    if not (np.diff(steps) > 0).all():
        # Within a merged chunk points lie by step, so the flush decides, and then the order in which they are held.
        order = np.lexsort((seqs, steps))
        order = order[np.append(steps[order][1:] != steps[order][:-1], True)]
        steps, times, values, seqs = steps[order], times[order], values[order], seqs[order]
    return chunk_row(chunks[0].run_id, chunks[0].metric, seq, Block(steps, times, values), seqs)


def cut_chunk(chunk: ChunkRow, step: int) -> dict[str, Any] | None:
    """The row without its points behind `step`; None when nothing is left."""
    block = unpack(chunk)
    kept = int(np.searchsorted(block.steps, step, side="right"))
    if not kept:
        return None
    seqs = None if chunk.marks is None else seqs_of(chunk)[:kept]
    return chunk_row(chunk.run_id, chunk.metric, chunk.seq, block.part(slice(kept)), seqs)
