"""The text language: what it reads, what it finds on SQLite and Postgres alike, what it says of what it cannot read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import Session, col, select

from app import listing, query, runs
from app.db import Database
from app.errors import Invalid
from app.fields import Field, best_stat, parse_name
from app.listing import Filter
from app.models import MetricSummary, Run
from app.query import And, Compare, Node, Not, Or, Value, Word
from app.runs import NewRun
from app.search import COMPARISONS, as_number, as_span
from app.settings import ROOT

EACH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DAY = 1_789_776_000.0  # 2026-09-19T00:00:00Z
LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def make_run(s: Session, *, at: float = DAY, metrics: dict[str, Any] | None = None, **values: Any) -> str:
    spec = values.pop("spec", {})
    request = {name: values.pop(name) for name in ("experiment", "tags", "notes", "name") if name in values}
    run, _ = runs.create_run(s, NewRun(None, params=spec, **request), max_queued=10)
    for name, value in {**values, "created_at": at, "spec": spec}.items():
        setattr(run, name, value)
    for metric, numbers in (metrics or {}).items():
        row = {"count": 1, "nonfinite": 0, "last_step": 1, "last": None, "min": None, "max": None, **numbers}
        s.add(MetricSummary(run_id=run.id, metric=metric, **row))
    s.flush()
    return run.id


def found(s: Session, text: str) -> list[str]:
    """Names of the runs that fit, sorted."""
    rows, _ = listing.list_runs(s, Filter(query=query.parse(text)), limit=1000)
    return sorted(run.name for run in rows)


# -- what it finds ----------------------------------------------------------------------------------------------------


@pytest.fixture
def library(db: Database) -> Iterator[Session]:
    """Three runs that differ in everything that can be asked."""
    with db.begin() as s:
        make_run(
            s,
            name="LeNet base",
            tags=["baseline", "Try 1"],
            notes="the slow one",
            model="lenet",
            experiment="sweep A",
            spec={
                "lr": 0.01,
                "batch_size": 64,
                "model_options": {"activation": "relu"},
                "nesterov": True,
                "a b": 3,
            },
            metrics={
                "val/accuracy": {"max": 0.985, "last": 0.98},
                "train/loss": {"min": 0.05, "last": 0.09},
                "f (x)": {"last": 2.0},
            },
            state="finished",
            epoch=3,
            step=900,
            total_steps=900,
            started_at=DAY,
            ended_at=DAY + 60,
        )
        make_run(
            s,
            name="ResNet 学习率",
            model="resnet8",
            at=DAY + 3600 * 30,
            experiment="sweep B",
            spec={
                "lr": 0.1,
                "batch_size": "64",
                "model_options": {"activation": "sigmoid"},
                "nesterov": False,
                "嵌套": {"层": 2},
            },
            metrics={"val/accuracy": {"max": 0.97, "last": 0.5}, "train/loss": {"min": 0.2, "last": None}},
            state="failed",
            epoch=1,
            step=10,
            total_steps=900,
            error="CUDA out of memory",
        )
        make_run(s, name="bare", at=DAY + 3600 * 80, state="running", spec={"lr": None, "list": [1, 2]})
        yield s


ALL = ["LeNet base", "ResNet 学习率", "bare"]
LENET, RESNET, BARE = [ALL[0]], [ALL[1]], [ALL[2]]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ALL),
        ("   ", ALL),
        ("lenet", LENET),
        ("LENET base", LENET),
        ('"net base"', LENET),
        ("net", ALL[:2]),
        ("学习率", RESNET),
        ("slow", LENET),
        ("baseline", LENET),
        ("nobody", []),
        ('"and"', []),
        ("%", []),
        ("_", []),
        ("lr > 0.01", RESNET),
        ("lr >= 0.01", ALL[:2]),
        ("lr=0.01", LENET),
        ("lr:0.010", LENET),
        ("lr = 1e-2", LENET),
        ("lr != 0.01", RESNET),
        ("NOT lr = 0.01", ALL[1:]),
        ("lr = none", BARE),
        ("lr != none", ALL[:2]),
        ("spec.lr < 0.05", LENET),
        ("batch_size = 64", ALL[:2]),
        ("batch_size > 63", LENET),
        ('batch_size = "64"', RESNET),
        ("spec.model_options.activation = relu", LENET),
        ("activation = ReLU", LENET),
        ("activation ~ SIG", RESNET),
        ("model_options.activation != relu", RESNET),
        ("spec.nesterov = true", LENET),
        ("spec.nesterov = false", RESNET),
        ('spec."a b" = 3', LENET),
        ("spec.嵌套.层 > 1", RESNET),
        ("spec.list = none", ALL[:2]),
        ("spec.list = 1", []),
        ("val/accuracy.max >= 0.98", LENET),
        ("val/accuracy >= 98%", LENET),
        ("val/accuracy < 0.98", RESNET),
        ("train/loss.last < 0.1", LENET),
        ("train/loss < 0.3", ALL[:2]),
        ("train/loss.last = none", ALL[1:]),
        ('"f (x)".last = 2', LENET),
        ('metric."f (x)" > 1', LENET),
        ("NOT val/accuracy > 0", BARE),
        ("state = finished", LENET),
        ("state:FAILED", RESNET),
        ("state != failed", [ALL[0], ALL[2]]),
        ("model = resnet8", RESNET),
        ("tag = baseline", LENET),
        ('tag = "try 1"', LENET),
        ("tag ~ base", LENET),
        ("tag != baseline", ALL[1:]),
        ("tag = none", ALL[1:]),
        ('experiment = "Sweep a"', LENET),
        ("experiment ~ sweep", ALL[:2]),
        ("experiment = none", BARE),
        ("experiment != x", ALL[:2]),
        ("notes ~ slow", LENET),
        ("notes = none", ALL[1:]),
        ("error ~ cuda", RESNET),
        ("kind = external", ALL),
        ("epoch >= 1", ALL[:2]),
        ("step < 100", ALL[1:]),
        ("progress = 100%", LENET),
        ("progress < 0.5", RESNET),
        ("duration = 60", LENET),
        ("created = 2026-09-19", LENET),
        ("created > 2026-09-19", ALL[1:]),
        ("created >= 2026-09-19", ALL),
        ("created < 2026-09-20T06:00", LENET),
        ("created <= 2026-09-20T06:00", ALL[:2]),
        ("created > -1d OR created <= -1d", ALL),
        ("ended != none", LENET),
        ("ended = 2026-09-19", LENET),
        ("NOT ended > 2026-09-19", ALL),
        ("lenet OR resnet", ALL[:2]),
        ("lr > 0.05 or activation = relu", ALL[:2]),
        ("net AND lr > 0.05", RESNET),
        ("net lr > 0.05", RESNET),
        ("NOT (lenet OR bare)", RESNET),
        ("not lenet and not bare", RESNET),
        ("NOT NOT lenet", LENET),
        ("bare OR lenet lr > 0.05", BARE),
        ("(bare OR lenet) step > 100", LENET),
    ],
)
def test_a_query_finds(library: Session, text: str, names: list[str]) -> None:
    assert found(library, text) == names


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("lr >", 5, "the query ends where a value belongs"),
        ("lr > >", 6, "expected a value, found >"),
        ("(lr > 1", 1, "never closed; add a )"),
        ("lr > 1)", 7, ") does not fit here"),
        ('name = "x', 8, "quotation mark is never closed"),
        ("AND lr > 1", 1, "expected a word or a comparison"),
        ("lr > 1 AND", 11, "ends where a word"),
        ("lrr > 1", 1, "there is no field lrr; did you mean lr?"),
        ("zzz = 1", 1, "write spec.zzz for a parameter of an outside script, metric.zzz for"),
        ("epoch > many", 9, "epoch is compared with a number, and many is none"),
        ("name > 3", 8, "name is text; compare it with =, != or ~"),
        ("epoch ~ 3", 9, "epoch is a number"),
        ("lr ~ 0.1", 6, "lr is a number"),
        ("state = done", 9, "there is no state done; choose one of queued, running"),
        ("created > soon", 11, "soon is no time; write 2026-11-23"),
        ("created = 2026-13-45", 11, "is no time"),
        ("a\0b", 2, "cannot be searched for"),
        ("spec. = 1", 1, "there is no field"),
        ("spec.a.0 = 1", 1, "there is no field"),
        ("()", 2, "expected a word"),
        ("NOT", 4, "the query ends"),
        ("(" * 30, 21, "more than 20 levels"),
        ("NOT " * 30 + "x", 81, "more than 20 levels"),
        ("a " * 51, 101, "more than 50 terms"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(library: Session, text: str, at: int, why: str) -> None:
    with pytest.raises(Invalid) as refused:
        found(library, text)
    assert refused.value.field == "q"
    assert refused.value.message.startswith(f"at character {at}: ")
    assert why in refused.value.message


def test_a_query_is_bounded() -> None:
    with pytest.raises(Invalid, match="longer than 1000 characters"):
        query.parse("x" * 1001)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lr", "lr"),
        ("spec.lr", "lr"),
        ("activation", "spec.model_options.activation"),
        ("tags", "tag"),
        ("val/accuracy", "val/accuracy.max"),
        ("val/accuracy.best", "val/accuracy.max"),
        ("val/loss", "val/loss.min"),
        ("train/lr", "train/lr.last"),
        ("train/loss.last", "train/loss.last"),
        ("metric.loss", "metric.loss.min"),
        ('"my metric".max', "metric.my metric.max"),
        ('spec."a.b".c', 'spec."a.b".c'),
        ("model", "model"),
        ("spec.model", "spec.model"),
    ],
)
def test_a_name_has_one_way_to_be_written(text: str, name: str) -> None:
    field = parse_name(text, "sort")
    assert field.name == name.replace("metric.my metric", '"my metric"')
    assert parse_name(field.name, "sort") == field


@given(st.text(max_size=40))
def test_any_name_is_known_or_refused(text: str) -> None:
    try:
        field = parse_name(text, "sort")
    except Invalid as error:
        refused = error
    else:
        assert parse_name(field.name, "sort") == field
        return
    assert refused.field == "sort"


def test_what_is_best() -> None:
    assert [best_stat(name) for name in ("val/loss", "a/top1_acc", "train/lr", "closs", "x/RMSE")] == [
        "min",
        "max",
        "last",
        "last",
        "min",
    ]


# -- the same as Python, on both databases ---------------------------------------------------------------------------

WORDS = st.sampled_from(["relu", "ReLU", "64", "true", "a b", "%", "x_y", "'; DROP TABLE run; --", "学", ""])
NUMBERS = st.sampled_from([0, 1, -1, 64, 0.01, 0.1, 1e-3, 2.5, 1e300, 10**25, 2**53 + 1])
SCALARS = st.one_of(WORDS, NUMBERS, st.booleans(), st.none(), st.just([1]), st.just({"x": 1}))
KEYS = ["lr", "batch_size", "p", "a b", "学"]
OPTIONAL = st.one_of(st.none(), NUMBERS.map(float))
METRICS = ["val/accuracy", "train/loss", "m"]
RUNS = st.fixed_dictionaries(
    {
        "name": WORDS.map(lambda text: f"run {text}"),
        "notes": WORDS,
        "model": st.one_of(st.none(), WORDS),
        "experiment": st.one_of(st.none(), WORDS),
        "tags": st.lists(WORDS.filter(bool), max_size=2),
        "state": st.sampled_from(["running", "finished", "failed"]),
        "epoch": st.integers(0, 3),
        "at": st.sampled_from([DAY, DAY + 3600, DAY + 86_400, DAY - 0.5]),
        "spec": st.dictionaries(st.sampled_from(KEYS), SCALARS, max_size=4),
        "metrics": st.dictionaries(
            st.sampled_from(METRICS),
            st.fixed_dictionaries({"last": OPTIONAL, "min": OPTIONAL, "max": OPTIONAL}),
            max_size=2,
        ),
    }
)


def _values(*more: str) -> st.SearchStrategy[str]:
    words = st.sampled_from(
        ["relu", "RELU", "64", '"64"', "true", '"a b"', "%", "x_y", "'", "学", "none", '""', *more]
    )
    return st.one_of(
        words, NUMBERS.map(lambda number: f"{number!r}"), st.sampled_from(["1%", "-1", "+0.1", ".5"])
    )


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["text", "number", "tag", "spec", "metric", "time"]))
    if kind == "time":
        times = st.sampled_from(["2026-09-19", "2026-09-19T01:00", "2026-09-18T23:59:59"])
        return f"created {draw(st.sampled_from(['=', '!=', '<', '<=', '>', '>=']))} {draw(times)}"
    if kind in ("text", "tag"):
        name = "tag" if kind == "tag" else draw(st.sampled_from(["name", "notes", "model", "experiment"]))
        return f"{name} {draw(st.sampled_from(['=', '!=', '~', ':']))} {draw(_values('run'))}"
    if kind == "spec":
        name = draw(st.sampled_from(["lr", "spec.batch_size", "spec.p", 'spec."a b"', "spec.学", "spec.p.x"]))
        op = draw(st.sampled_from(["=", "!=", "<", ">="]))
        if op in "=!=":
            return f"{name} {op} {draw(_values())}"
        return f"{name} {op} {draw(NUMBERS)!r}"
    name = (
        "epoch"
        if kind == "number"
        else draw(st.sampled_from(["val/accuracy", "train/loss.last", "metric.m.min"]))
    )
    return f"{name} {draw(st.sampled_from(['=', '!=', '<', '<=', '>', '>=']))} {draw(NUMBERS)!r}"


QUERIES = st.recursive(
    st.one_of(comparisons(), st.sampled_from(["run", "relu", '"a b"', "%", "DROP", "学", "run/x"])),
    lambda inner: st.one_of(
        inner.map(lambda text: f"NOT ({text})"),
        st.tuples(inner, st.sampled_from([" AND ", " OR ", " "]), inner).map(
            lambda parts: f"({''.join(parts)})"
        ),
    ),
    max_leaves=6,
)


def holds(node: Node | None, run: Run, metrics: dict[str, dict[str, Any]]) -> bool:
    """What the language says, in plain Python."""
    match node:
        case None:
            return True
        case Word(text):
            fields = [run.name, run.notes, run.experiment, run.model, run.dataset, run.id, *run.tags]
            return any(_low(text) in _low(part) for part in fields if part is not None)
        case Not(part):
            return not holds(part, run, metrics)
        case And(parts):
            return all(holds(part, run, metrics) for part in parts)
        case Or(parts):
            return any(holds(part, run, metrics) for part in parts)
        case Compare(field, op, value):
            return _compares(field, op, value, run, metrics)


def _low(text: str) -> str:
    return text.translate(LOWER)


def _compares(field: Field, op: str, value: Value, run: Run, metrics: dict[str, dict[str, Any]]) -> bool:
    if field.kind == "tags":
        hits = [
            _low(value.text) in _low(tag) if op == "~" else _low(value.text) == _low(tag) for tag in run.tags
        ]
        if value.text == "none" and not value.quoted and op != "~":
            return bool(run.tags) == (op == "!=")
        return not any(hits) if op == "!=" else any(hits)
    mine = _value_of(field, run, metrics)
    return _compares_with(mine, field, op, value)


def _compares_with(mine: Any, field: Field, op: str, value: Value) -> bool:
    if value.text == "none" and not value.quoted and op in ("=", "!="):
        there = mine is not None and mine != ""
        return there == (op == "!=")
    if isinstance(mine, list | dict) or mine is None:
        return False
    if field.kind == "time":
        span = as_span(value, 0.0)
        assert span is not None
        within: dict[str, bool] = {
            "=": span.start <= mine < span.end, "!=": not span.start <= mine < span.end, "<": mine < span.start,
            "<=": mine < span.end, ">": mine >= span.end, ">=": mine >= span.start,
        }  # fmt: skip
        return within[op]
    if isinstance(mine, bool):
        mine = str(mine).lower()
    number = as_number(value)
    if isinstance(mine, str):
        if op == "~":
            return _low(value.text) in _low(mine)
        if op == "!=" and field.kind == "text" and mine == "":
            return False
        same = _low(value.text) == _low(mine)
        return op in ("=", "!=") and same == (op == "=")
    if number is None:
        return op == "!="
    return bool(COMPARISONS[op](float(mine), number))


def _value_of(field: Field, run: Run, metrics: dict[str, dict[str, Any]]) -> Any:
    if field.kind == "metric":
        return metrics.get(field.metric, {}).get(field.stat)
    if field.kind == "spec":
        part: Any = run.spec
        for key in field.path:
            part = part.get(key) if isinstance(part, dict) else None
        return part
    return getattr(run, {"created": "created_at"}.get(field.name, field.name))


@pytest.mark.slow
@EACH
@given(rows=st.lists(RUNS, min_size=1, max_size=5), texts=st.lists(QUERIES, min_size=3, max_size=8))
def test_a_query_finds_what_python_finds(db: Database, rows: list[dict[str, Any]], texts: list[str]) -> None:
    with db.engine.connect() as connection, connection.begin() as transaction:
        s = Session(connection, expire_on_commit=False)
        metrics = {}
        for row in rows:
            run_id = make_run(s, **json.loads(json.dumps(row)))
            metrics[run_id] = row["metrics"]
        everything = s.exec(select(Run).where(col(Run.id).in_(metrics))).all()
        for text in texts:
            tree = query.parse(text)
            by_sql = {run.id for run in listing.list_runs(s, Filter(query=tree), limit=1000)[0]}
            assert by_sql & metrics.keys() == {
                run.id for run in everything if holds(tree, run, metrics[run.id])
            }, text
        s.close()
        transaction.rollback()


PIECES = st.sampled_from(
    [
        "lr",
        "name",
        "tag",
        "val/accuracy",
        ".max",
        "spec.",
        "(",
        ")",
        '"',
        "=",
        "!=",
        "<",
        ">=",
        "~",
        ":",
        "AND",
        "OR",
        "NOT",
        " ",
        " ",
        "0.1",
        "98%",
        "-7d",
        "2026-01-01",
        "none",
        "\\",
        "'",
        ";",
        "--",
        "%",
        "$",
        "{",
        "[",
        "\0",
        "学",
        "1e999",
        "9" * 30,
    ]
)


@pytest.mark.slow
@EACH
@given(text=st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map("".join)))
def test_any_text_is_a_query_or_refused_with_its_field(db: Database, text: str) -> None:
    with db.read() as s:
        try:
            found(s, text)
        except Invalid as error:
            refused = error
        else:
            return
    assert refused.field == "q"
    assert re.match(r"at character \d+: .+|the query is longer", refused.message, re.DOTALL)


@pytest.mark.parametrize(
    "text",
    [
        "'; DROP TABLE run; --",
        '"\'; DELETE FROM run; --"',
        "name = \"' OR '1'='1\"",
        'spec."\' OR 1=1 --" = 1',
        'tag = "\') OR 1=1 --"',
        '"m\' OR 1=1 --".max > 0',
        'lr = "0 OR 1=1"',
        'name ~ "%\' OR 1=1 --"',
        'spec."$.x[0]" = 1',
        'spec."{a,b}" = 1',
        'spec."a\'b" = 1',
    ],
)
def test_what_would_be_sql_is_only_text(library: Session, text: str) -> None:
    assert found(library, text) == []
    assert found(library, "") == ALL


def test_odd_keys_are_found_as_they_are_written(db: Database) -> None:
    keys = ["a b", "a.b", "$", "{x}", "a,b", "a'b", "[0]", "学习率", "#", "é", "x-1"]
    with db.begin() as s:
        for key in keys:
            make_run(s, name=key, spec={key: 1})
        for key in keys:
            assert found(s, f'spec."{key}" = 1') == [key]


def test_the_examples_of_the_help_can_be_asked(library: Session) -> None:
    page = (ROOT / "templates" / "help.html").read_text()
    examples = [unescape(text) for text in re.findall(r"<code>([^<]+)</code>", page)]
    assert len(examples) >= 10
    for example in examples:
        found(library, example)
