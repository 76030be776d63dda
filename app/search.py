"""A query's tree as SQL: expressions with bound values, the same answers on SQLite and Postgres.

Text is compared without regard to the case of a to z (the databases differ in other letters). Numbers are compared as
64-bit floats, wherever they come from. What a run does not have is NULL, which no comparison lets through.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    Numeric,
    String,
    and_,
    case,
    cast,
    collate,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlmodel import Session, col

from app.db import now
from app.fields import SPEC_NUMBERS, Field
from app.models import STATES, MetricSummary, Run
from app.query import And, Compare, Misfit, Node, Not, Or, Value, Word, located

Condition = ColumnElement[bool]
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
SEARCHED = (Run.name, Run.notes, Run.experiment, Run.model, Run.dataset, Run.id)
LARGEST = Decimal("1.7e308")  # an outside script's integers may be larger than any float
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_AGE = re.compile(r"-(\d{1,6})(s|min|h|d|w)")
_AGE_S = {"s": 1, "min": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?Z?)?")


class Sql:
    """Builds expressions for one session's database, at one time."""

    def __init__(self, s: Session) -> None:
        self.is_postgres = s.get_bind().dialect.name == "postgresql"
        self._session = s

    # -- what a field is worth -----------------------------------------------------------------------------------

    def number(self, field: Field) -> ColumnElement[Any]:
        """The field as a number; NULL where it is none."""
        if field.kind == "spec":
            return self._spec_number(field.path)
        if field.kind == "metric":
            mine = (col(MetricSummary.run_id) == col(Run.id), col(MetricSummary.metric) == field.metric)
            return select(getattr(MetricSummary, field.stat)).where(*mine).scalar_subquery()
        expression: ColumnElement[Any] = field.column
        return expression

    def text(self, field: Field) -> ColumnElement[Any]:
        """The field as text; NULL where it is none."""
        if field.kind != "spec":
            expression: ColumnElement[Any] = field.column
            return expression
        kind, value = self._spec_part(field.path)
        if self.is_postgres:
            return case((kind.in_(["string", "boolean"]), value))
        return case((kind == "text", value), (kind.in_(["true", "false"]), kind))

    def _spec_part(self, path: tuple[str, ...]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        """Kind and text of a part of the spec, by the database's own words for kinds."""
        spec = col(Run.spec)
        if self.is_postgres:
            node = func.json_extract_path(spec, *path)
            return func.json_typeof(node), func.json_extract_path_text(spec, *path, type_=String)
        # Keys are stored as ASCII; SQLite before 3.45 compares them as they are stored.
        place = "$" + "".join(f".{json.dumps(part)}" for part in path)
        return func.json_type(spec, place), func.json_extract(spec, place, type_=String)

    def _spec_number(self, path: tuple[str, ...]) -> ColumnElement[Any]:
        kind, value = self._spec_part(path)
        if self.is_postgres:
            exact, most = cast(value, Numeric), literal(LARGEST, Numeric)
            bounded: ColumnElement[Any] = cast(func.least(func.greatest(exact, -most), most), Float)
            return case((kind == "number", bounded))
        most = literal(float(LARGEST), Float)
        bounded = func.max(func.min(cast(value, Float), most), -most, type_=Float)
        return case((kind.in_(["integer", "real"]), bounded))

    def present(self, field: Field) -> Condition:
        if field.kind == "spec":
            kind, _value = self._spec_part(field.path)
            return func.coalesce(kind, "null") != "null"
        if field.kind == "metric":
            return self.number(field).is_not(None)
        expression: ColumnElement[Any] = field.column
        if field.kind == "text":
            return func.coalesce(field.column, "") != ""
        return expression.is_not(None)

    # -- conditions ----------------------------------------------------------------------------------------------

    def where(self, node: Node) -> Condition:
        """Raises: Invalid, for a comparison that cannot be made."""
        with located("q"):
            return self.condition(node)

    def condition(self, node: Node) -> Condition:
        match node:
            case Word(text):
                return self.search(text)
            case Compare():
                return self._compare(node)
            case And(parts):
                return and_(*map(self.condition, parts))
            case Or(parts):
                return or_(*map(self.condition, parts))
            case Not(part):
                return not_(func.coalesce(self.condition(part), false(), type_=Boolean))

    def search(self, text: str) -> Condition:
        """Runs with this text in their name, notes, experiment, tags, model, dataset or id."""
        places = [self._contains(col(column), text) for column in SEARCHED]
        return or_(*places, self.has_tag(lambda tag: self._contains(tag, text)))

    def has_tag(self, fits: Callable[[Any], Condition]) -> Condition:
        """Runs with a tag that fits."""
        if self.is_postgres:
            listed = func.json_array_elements_text(col(Run.tags)).table_valued("value").render_derived()
        else:
            listed = func.json_each(col(Run.tags)).table_valued("value")
        return exists(select(1).select_from(listed).where(fits(listed.c.value)))

    def _lower(self, text: Any) -> ColumnElement[Any]:
        return func.lower(collate(text, "C") if self.is_postgres else text)

    def _contains(self, text: Any, part: str) -> Condition:
        find = func.strpos if self.is_postgres else func.instr
        return find(self._lower(text), part.translate(_LOWER)) > 0

    def _equals(self, text: Any, other: str) -> Condition:
        return self._lower(text) == other.translate(_LOWER)

    def _compare(self, node: Compare) -> Condition:
        field, op, value = node.field, node.op, node.value
        if value.text.lower() == "none" and not value.quoted and op in ("=", "!="):
            return not_(self.present(field)) if op == "=" else self.present(field)
        compare = {
            "text": self._compare_text,
            "number": self._compare_number,
            "metric": self._compare_number,
            "time": self._compare_time,
            "tags": self._compare_tags,
            "spec": self._compare_spec,
        }[field.kind]
        return compare(field, op, value)

    def _compare_text(self, field: Field, op: str, value: Value) -> Condition:
        _check_text(field, op, value)
        text = self.text(field)
        if op == "~":
            return self._contains(text, value.text)
        same = self._equals(text, value.text)
        return same if op == "=" else and_(self.present(field), not_(same))

    def _compare_tags(self, field: Field, op: str, value: Value) -> Condition:
        _check_text(field, op, value)
        fits = self._contains if op == "~" else self._equals
        found = self.has_tag(lambda tag: fits(tag, value.text))
        return not_(found) if op == "!=" else found

    def _compare_number(self, field: Field, op: str, value: Value) -> Condition:
        number, name, found = as_number(value), field.name, value.text[:100]
        if op == "~":
            raise Misfit(f"{name} is a number; compare it with = != < <= > or >=", value.at)
        if number is None:
            raise Misfit(f"{name} is compared with a number, and {found} is none", value.at)
        compared: Condition = COMPARISONS[op](self.number(field), literal(number, Float))
        return compared

    def _compare_spec(self, field: Field, op: str, value: Value) -> Condition:
        is_number = len(field.path) == 1 and field.path[0] in SPEC_NUMBERS
        if op not in ("=", "!=") and (op != "~" or is_number):
            return self._compare_number(field, op, value)
        text = self.text(field)
        if op == "~":
            return self._contains(text, value.text)
        same = self._equals(text, value.text)
        number = as_number(value)
        if number is not None:
            same = or_(same, self.number(field) == literal(number, Float))
        if op == "=":
            return same
        known = or_(text.is_not(None), self.number(field).is_not(None))
        return and_(known, not_(func.coalesce(same, false(), type_=Boolean)))

    def _compare_time(self, field: Field, op: str, value: Value) -> Condition:
        name, found = field.name, value.text[:100]
        if op == "~":
            raise Misfit(f"{name} is a time; compare it with = != < <= > or >=", value.at)
        span = as_span(value, now(self._session))
        if span is None:
            raise Misfit(
                f"{found} is no time; write 2026-11-23, 2026-11-23T08:30 (UTC), -7d or -12h", value.at
            )
        time, within = field.column, and_(field.column >= span.start, field.column < span.end)
        conditions: dict[str, Condition] = {
            "=": within, "!=": not_(within), "<": time < span.start, "<=": time < span.end,
            ">": time >= span.end, ">=": time >= span.start,
        }  # fmt: skip
        return conditions[op]


def _check_text(field: Field, op: str, value: Value) -> None:
    name, found = field.name, value.text[:100]
    if op not in ("=", "!=", "~"):
        raise Misfit(f"{name} is text; compare it with =, != or ~ (contains)", value.at)
    if name == "state" and op != "~" and value.text.lower() not in STATES:
        known = ", ".join(STATES)
        raise Misfit(f"there is no state {found}; choose one of {known}", value.at)


def as_number(value: Value) -> float | None:
    """`0.98`, `1e-3`, `98%`; None for what is no finite number."""
    text = value.text.removesuffix("%")
    if value.quoted or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text, re.ASCII):
        return None
    number = float(text) / (100 if text != value.text else 1)
    return number if math.isfinite(number) else None


class Span(NamedTuple):
    """From `start` on, to before `end`, in Unix seconds."""

    start: float
    end: float


def as_span(value: Value, at: float) -> Span | None:
    """The day, the minute or the second that is written, or the moment so long before `at`; UTC."""
    age = _AGE.fullmatch(value.text)
    if age:
        moment = at - int(age[1]) * _AGE_S[age[2]]
        return Span(moment, moment)
    written = _DATE.fullmatch(value.text)
    if not written:
        return None
    day, minute, second = written.groups()
    try:
        start = datetime.fromisoformat(f"{day}T{minute or '00:00'}{second or ''}").replace(tzinfo=UTC)
        end = start + timedelta(seconds=1 if second else 60 if minute else 86_400)
    except (ValueError, OverflowError):
        return None
    return Span(start.timestamp(), end.timestamp())
