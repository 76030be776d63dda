"""Which fields differ between specs."""

from __future__ import annotations

from app.compare import differing_fields
from app.palette import STYLES, distinct_styles
from ml.spec import RunSpec


def test_equal_specs_differ_in_nothing() -> None:
    spec = RunSpec().model_dump()
    assert differing_fields([spec, dict(spec), dict(spec)]) == {}
    assert differing_fields([spec]) == {}
    assert differing_fields([]) == {}


def test_a_field_that_differs_has_a_value_for_each_run_in_order() -> None:
    specs = [{"lr": lr, "seed": 0} for lr in (0.1, 0.01, 0.1)]
    assert differing_fields(specs) == {"lr": [0.1, 0.01, 0.1]}


def test_options_are_named_by_their_path_and_absent_ones_are_none() -> None:
    lenet = RunSpec(model="lenet", model_options={"activation": "relu"}).model_dump()
    alexnet = RunSpec(model="alexnet").model_dump()
    found = differing_fields([lenet, alexnet])
    assert found["model"] == ["lenet", "alexnet"]
    assert found["model_options.activation"] == ["relu", None]
    assert found["model_options.dropout"] == [None, 0.5]


def test_one_and_true_are_different_settings_but_one_and_one_point_zero_are_not() -> None:
    assert differing_fields([{"a": 1}, {"a": True}]) == {"a": [1, True]}
    assert differing_fields([{"a": 1}, {"a": 1.0}]) == {}


def test_colours_are_distinct_as_long_as_there_are_enough() -> None:
    assert distinct_styles([0, 1, 2]) == [0, 1, 2]
    assert distinct_styles([3, 3, 3]) == [3, 4, 5]
    assert sorted(distinct_styles([7] * STYLES)) == list(range(STYLES))
    assert len(distinct_styles([0] * (STYLES + 3))) == STYLES + 3
