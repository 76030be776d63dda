"""Pages by key: the rows behind a row in an order, whatever was added or deleted meanwhile. What is missing comes last,
in rising and in falling order."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, and_, false, or_

from app.errors import Invalid

Value = float | str | None


@dataclass(frozen=True)
class Key:
    """One expression of an order. Together the keys of an order must tell any two rows apart."""

    expression: Any
    kind: Literal["number", "text"]
    falling: bool = False
    nullable: bool = True


class Place(NamedTuple):
    """Between two rows: behind the row with these keys, or before it where `backward`."""

    values: tuple[Value, ...]
    backward: bool


def order_by(keys: Sequence[Key], backward: bool = False) -> list[Any]:
    """The order's columns, turned round where `backward`."""
    columns = []
    for key in keys:
        falling = key.falling != backward
        column = key.expression.desc() if falling else key.expression.asc()
        if key.nullable:
            column = column.nulls_first() if backward else column.nulls_last()
        columns.append(column)
    return columns


def beyond(keys: Sequence[Key], place: Place) -> ColumnElement[bool]:
    """Whether a row lies behind the place, or before it where the place looks backward."""
    condition: ColumnElement[bool] = false()
    for key, value in zip(reversed(keys), reversed(place.values), strict=True):
        same = key.expression.is_(None) if value is None else key.expression == value
        condition = or_(_past(key, value, place.backward), and_(same, condition))
    return condition


def _past(key: Key, value: Value, backward: bool) -> ColumnElement[bool]:
    column = key.expression
    if value is None:
        missing: ColumnElement[bool] = column.is_not(None) if backward else false()
        return missing
    less = key.falling != backward
    past: ColumnElement[bool] = column < value if less else column > value
    return or_(past, column.is_(None)) if key.nullable and not backward else past


def write_cursor(order: str, place: Place) -> str:
    facts = [order, "<" if place.backward else ">", *place.values]
    return base64.urlsafe_b64encode(json.dumps(facts).encode()).decode().rstrip("=")


def read_cursor(cursor: str, order: str, keys: Sequence[Key]) -> Place:
    """Raises: Invalid, for a cursor that was not given for this order."""
    try:
        made_for, way, *values = json.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
    except (ValueError, TypeError, RecursionError):
        made_for, way, values = None, None, []
    fits = len(values) == len(keys) and all(map(_fits, keys, values))
    if made_for != order or way not in ("<", ">") or not fits:
        message = "the cursor is not one that this server gave for this order; leave it out to start again"
        raise Invalid(message, "cursor")
    return Place(tuple(values), way == "<")


def _fits(key: Key, value: object) -> bool:
    if value is None:
        return key.nullable
    if key.kind == "text":
        return isinstance(value, str) and not any(
            letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value
        )
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return is_whole or (isinstance(value, float) and math.isfinite(value))
