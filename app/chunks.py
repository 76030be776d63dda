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


def join_blocks(blocks: Sequence[Block]) -> Block:
    """One block of several, given in order of flush: where steps overlap, the later wins."""
    if len(blocks) == 1:
        return blocks[0]
    whole = Block(*(np.concatenate(part) for part in zip(*blocks, strict=True)))
    in_order = all(a.steps[-1] < b.steps[0] for a, b in pairwise(blocks))
    return whole if in_order else last_of_each_step(whole)


def cut_block(block: Block, from_step: int | None, to_step: int | None) -> Block:
    """The points of a window of steps, both ends included."""
    low = 0 if from_step is None else int(np.searchsorted(block.steps, from_step, side="left"))
    high = len(block.steps) if to_step is None else int(np.searchsorted(block.steps, to_step, side="right"))
    return block if (low, high) == (0, len(block.steps)) else block.part(slice(low, high))


# -- packed -----------------------------------------------------------------------------------------------------------


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


def chunk_row(run_id: str, metric: str, seq: int, block: Block) -> dict[str, Any]:
    """A row of `metric_chunk`. Blocks are sorted and of at least one point."""
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


def unpack(chunk: ChunkRow) -> Block:
    steps = (
        np.frombuffer(chunk.steps, "<i8")
        if chunk.steps
        else np.arange(chunk.first_step, chunk.first_step + chunk.length, dtype=np.int64)
    )
    return Block(steps, np.frombuffer(chunk.times, "<f8"), np.frombuffer(chunk.vals, "<f8"))
