"""A very long series without most of its points: what a chart needs of a chunk that lies inside one of its buckets is
its first, lowest, highest and last point, and those are beside the chunk.

Only the chunks that a border of a bucket runs through are opened: a number that grows with the chart's points and not
with the steps. What is left of the series reduces to the very same points as all of it (M4 takes from a bucket no
others than these four). For axes that follow from the step alone; clocks may turn back, so that they need every point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session

from app import series
from app.chunks import EMPTY, Block, Floats, Ints, join_packed
from app.series import Head

XOf: TypeAlias = Callable[[Ints], Floats]
MARGIN = 1e-6  # of a bucket: nearer to a border than this a chunk counts as crossed by it


def read_outline(
    s: Session, run_id: str, metric: str, x_of: XOf, window: tuple[float | None, float | None], points: int
) -> tuple[Block, int] | None:
    """Points that reduce to the same `points` as all in the window, and how many those are.

    None where it cannot be had: chunks overlap, hold what is not finite, or have no statistics. Times are NaN.
    """
    heads = series.read_heads(s, run_id, metric)
    if not heads or any(head.nonfinite != 0 for head in heads):
        return None
    first, last = (np.asarray([head[place] for head in heads], np.int64) for place in (1, 2))
    if not (last[:-1] < first[1:]).all():
        return None
    low, high = window
    seen = np.ones(len(heads), bool)
    if low is not None:
        seen &= x_of(last) >= low
    if high is not None:
        seen &= x_of(first) <= high
    heads = [head for head, inside in zip(heads, seen, strict=True) if inside]
    if not heads:
        return EMPTY, 0
    return _assemble(s, run_id, metric, heads, x_of, window, points)


def _assemble(
    s: Session,
    run_id: str,
    metric: str,
    heads: Sequence[Head],
    x_of: XOf,
    window: tuple[float | None, float | None],
    points: int,
) -> tuple[Block, int]:
    ends = [heads[0].seq, heads[-1].seq]  # the window may end inside them
    opened = _open(s, run_id, metric, ends, x_of, window)
    edges = np.concatenate([x_of(opened[seq].steps) for seq in dict.fromkeys(ends)])
    middle = heads[1:-1]
    x = x_of(np.asarray([[head.first_step, head.last_step] for head in middle], np.int64).reshape(-1, 2))
    edges = np.append(edges, x)
    if not edges.size:
        return EMPTY, 0
    closed = lies_in_one_bucket(x, float(edges.min()), float(edges.max()), points // 4)
    wanted = [head.seq for head, inside in zip(middle, closed, strict=True) if not inside]
    opened |= _open(s, run_id, metric, wanted, x_of, window)
    kept = [head for head, inside in zip(middle, closed, strict=True) if inside]
    total = sum(len(block.steps) for block in opened.values()) + sum(head.length for head in kept)
    corners = np.asarray(
        [(h.first_step, h.min_step, h.max_step, h.last_step) for h in kept], np.int64
    ).ravel()
    numbers = np.asarray([(h.first, h.min, h.max, h.last) for h in kept], np.float64).ravel()
    blocks = [opened[seq] for seq in sorted(opened)]
    steps = np.concatenate([*(block.steps for block in blocks), corners])
    values = np.concatenate([*(block.values for block in blocks), numbers])
    order = np.argsort(steps, kind="stable")  # two runs in order, nearly: a merge
    steps, values = steps[order], values[order]
    fresh = np.append(True, steps[1:] != steps[:-1])  # an end may be an extreme
    return Block(steps[fresh], np.broadcast_to(np.float64(np.nan), int(fresh.sum())), values[fresh]), total


def _open(
    s: Session,
    run_id: str,
    metric: str,
    seqs: Sequence[int],
    x_of: XOf,
    window: tuple[float | None, float | None],
) -> dict[int, Block]:
    """The points in the window of these chunks, by seq."""
    low, high = window
    found = {}
    for seq, chunk in series.read_chunks(s, run_id, metric, seqs):
        block = join_packed([chunk])
        x = x_of(block.steps)
        start = 0 if low is None else int(np.searchsorted(x, low, side="left"))
        stop = len(x) if high is None else int(np.searchsorted(x, high, side="right"))
        found[seq] = block.part(slice(start, stop))
    return found


def lies_in_one_bucket(x: Floats, low: float, high: float, buckets: int) -> NDArray[np.bool_]:
    """Of ends of x [N, 2], whether both surely lie in the same of the equal buckets between `low` and `high` [N]."""
    place = (x - low) / max(high - low, 1e-300) * buckets
    return np.asarray(np.floor(place[:, 0] - MARGIN) == np.floor(place[:, 1] + MARGIN), bool)
