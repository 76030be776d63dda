"""Columns of numbers as they travel: plain JSON lists, or typed arrays that Plotly takes as they are."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.chunks import Floats, Ints, is_float32

Format: TypeAlias = Literal["json", "typed"]

# Plotly's names (plotly.js 4.1: i1 u1 i2 u2 i4 u4 f4 f8), the narrower first.
_WHOLE = tuple((f"{kind}{size}", np.iinfo(f"{kind}{size}")) for size in (1, 2, 4) for kind in "ui")


def json_floats(values: Floats) -> list[float | str]:
    """Plain numbers, and "NaN", "Infinity", "-Infinity" as those strings: JSON has no token for them."""
    plain: list[float | str] = values.tolist()
    for index, name in odd_points(values):
        plain[index] = name
    return plain


def odd_points(values: Floats) -> list[tuple[int, str]]:
    """Where a column is not finite, and what stands there."""
    return [(int(index), _name(values[index])) for index in np.flatnonzero(~np.isfinite(values))]


def _name(number: float) -> str:
    return "NaN" if np.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def typed(column: Floats | Ints) -> dict[str, str]:
    """`{"dtype", "bdata"}`: the column in base64, little-endian, in the narrowest type that loses nothing."""
    dtype = _narrowest(column)
    return {"dtype": dtype, "bdata": b64encode(column.astype(f"<{dtype}").tobytes()).decode()}


def _narrowest(column: NDArray[Any]) -> str:
    if not column.size:
        return "u1"
    if _is_whole(column):
        low, high = column.min(), column.max()
        for name, bounds in _WHOLE:
            if bounds.min <= low and high <= bounds.max:
                return name
    return "f4" if column.dtype.kind == "f" and is_float32(column) else "f8"


def _is_whole(column: NDArray[Any]) -> bool:
    if column.dtype.kind != "f":
        return True
    with np.errstate(invalid="ignore"):
        whole = (column == np.trunc(column)) & np.isfinite(column) & ~((column == 0) & np.signbit(column))
    return bool(whole.all())
