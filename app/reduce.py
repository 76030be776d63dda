"""A line of many points as the few that draw it: every extreme is kept. Pure: numpy."""

from __future__ import annotations

import numpy as np
from tsdownsample import M4Downsampler

from app.chunks import Floats, Ints


def reduce_to(x: Floats, values: Floats, points: int) -> Ints:
    """Indices of at most `points` points that draw the same line.

    M4 (Jugel et al., VLDB 2014) over equal buckets of x: first, lowest, highest and last point of each, so that no
    spike is lost. Points that are not finite are kept beside them: all, or where they are more than a quarter of the
    budget the first in each of as many equal buckets of x. `points` is at least 8.
    """
    if len(values) <= points:
        return np.arange(len(values), dtype=np.int64)
    finite = np.isfinite(values)
    if finite.all():
        return _m4(x, values, points // 4)
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
    span = (
        x[-1] - x[0]
    )  # the library panics on one that is very small; at one time, as a script's batch, it is 0
    x = (x - x[0]) * (len(x) / span) if span > 1e-300 else np.arange(len(x), dtype=np.float64)
    kept = M4Downsampler().downsample(  # type: ignore[no-untyped-call]
        np.ascontiguousarray(x), np.ascontiguousarray(values), n_out=4 * buckets
    )
    return np.unique(kept).astype(np.int64)
