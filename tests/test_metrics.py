"""Bodies of points: the quick way and the careful way say the same, and neither takes what does not fit."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api import metrics
from app.api.metrics import Columns, read_batch
from app.errors import Invalid

quick = settings(deadline=None, max_examples=300)

words = st.sampled_from(["NaN", "Infinity", "-Infinity", "nan", "1", ""])
numbers = st.one_of(
    st.integers(-5, 5), st.integers(2**53, 2**70), st.floats(), st.none(), st.booleans(), words
)
steps = st.one_of(st.integers(-1, 5), st.integers(2**53 - 1, 2**64), st.floats(0, 3), st.booleans())
columns = st.lists(numbers, max_size=4)
bodies = st.fixed_dictionaries(
    {
        "step": st.one_of(st.lists(st.integers(0, 9), max_size=4), st.lists(steps, max_size=4), st.none()),
        "values": st.dictionaries(st.sampled_from(["m", "a b", "<", ""]), columns, max_size=3),
    },
    optional={
        "batch": st.sampled_from(["b", "", None, 1]),
        "time": st.one_of(
            st.none(), st.lists(st.one_of(st.floats(), st.just("1"), st.integers(0, 3)), max_size=4)
        ),
        "extra": st.just([1]),
    },
)
fitting = st.integers(1, 6).flatmap(
    lambda n: st.fixed_dictionaries(
        {
            "step": st.lists(st.integers(0, 2**53), min_size=n, max_size=n),
            "values": st.dictionaries(
                st.sampled_from("abc"),
                st.lists(st.one_of(st.floats(), st.integers(-(2**70), 2**70)), min_size=n, max_size=n),
                min_size=1,
            ),
        },
        optional={"time": st.lists(st.floats(0, 1e11), min_size=n, max_size=n)},
    )
)


def carefully(document: Any) -> Columns | None:
    try:
        return metrics._read_slowly(document)
    except RequestValidationError:
        return None


def same(one: Columns, other: Columns) -> bool:
    def plain(columns: Columns) -> Any:
        times = None if columns.times is None else columns.times.tolist()
        values = {m: v[np.ones(len(v), bool) if g is None else g] for m, (v, g) in columns.values.items()}
        return repr(
            (columns.batch, columns.steps.tolist(), times, {m: v.tolist() for m, v in values.items()})
        )

    return bool(plain(one) == plain(other))


@quick
@given(st.one_of(bodies, fitting))
def test_the_quick_way_takes_nothing_that_the_careful_way_refuses(document: Any) -> None:
    read, expected = metrics._read_arrays(document), carefully(document)
    if read is not None:
        assert expected is not None
        assert same(read, expected)


@quick
@given(fitting)
def test_plain_numbers_go_the_quick_way(document: Any) -> None:
    assert metrics._read_arrays(document) is not None


@pytest.mark.parametrize(
    "document", [None, [], 3, {}, {"step": 1, "values": {}}, {"step": [1], "values": [1]}]
)
def test_other_documents_are_refused_with_a_place(document: Any) -> None:
    with pytest.raises(RequestValidationError) as refused:
        read_batch(json.dumps(document).encode())
    assert refused.value.errors()[0]["loc"][0] == "body"


@pytest.mark.parametrize("body", [b"", b"{", b'{"step": [1],}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_called_so(body: bytes) -> None:
    with pytest.raises(RequestValidationError) as refused:
        read_batch(body)
    assert refused.value.errors()[0]["type"] == "json_invalid"


def test_a_wrong_number_deep_in_a_large_body_is_named() -> None:
    values: list[Any] = [0.5] * 10_000
    values[7_000] = "0.5"
    body = {"step": list(range(10_000)), "values": {"good": [1.0] * 10_000, "bad": values}}
    with pytest.raises(RequestValidationError) as refused:
        read_batch(json.dumps(body).encode())
    assert refused.value.errors()[0]["loc"][:4] == ("body", "values", "bad", 7_000)


def test_holes_and_names_of_numbers() -> None:
    body = {"step": [3, 1, 2], "time": [3, 1, 2], "values": {"m": [None, "NaN", 7], "n": [None] * 3}}
    _, points = read_batch(json.dumps(body).encode())
    assert points.keys() == {"m"}
    assert points["m"].steps.tolist() == [1, 2]
    assert math.isnan(points["m"].values[0])
    assert points["m"].times.tolist() == [1.0, 2.0]
    with pytest.raises(Invalid):
        read_batch(b'{"step": [1], "values": {"m": [null]}}')
