"""Which fields differ between specs."""

from __future__ import annotations

import math

from app.compare import Delta, RunFacts, deltas, diff_specs, differing_fields
from app.db import Database
from app.palette import STYLES, Look, distinct_styles, look_of
from app.runs import NewRun, create_run
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


def facts(run_id: str, **fields: object) -> RunFacts:
    return RunFacts(run_id, spec=RunSpec.model_validate(fields).model_dump())


def test_every_field_stands_in_one_of_three_lists() -> None:
    runs = [facts("a", lr=0.1), facts("b", model="alexnet", lr=0.1), facts("c", lr=0.2)]
    diff = diff_specs(runs)
    assert [field.field for field in diff.differing] == ["model", "lr"]
    assert diff.differing[1].values == {"a": 0.1, "b": 0.1, "c": 0.2}
    assert {field.field: list(field.values) for field in diff.partial} == {
        "model_options.activation": ["a", "c"],
        "model_options.pooling": ["a", "c"],
        "model_options.init": ["a", "c"],
        "model_options.dropout": ["b"],
    }
    assert {field.field for field in diff.same} == set(RunSpec.model_fields) - {
        "model",
        "lr",
        "model_options",
    }
    assert diff_specs([]) == diff_specs([RunFacts("x", kind="external")])


def test_options_of_different_models_are_no_fields_of_each_other() -> None:
    """The ResNets take the same options; two scripts' models may both have a dropout, and mean another thing."""
    shared = [facts("a", model="resnet8"), facts("b", model="resnet20", model_options={"residual": False})]
    assert [field.field for field in diff_specs(shared).differing] == ["model", "model_options.residual"]

    own = [
        RunFacts(name, kind="external", spec={"model": name, "model_options": {"dropout": rate}})
        for name, rate in (("x", 0.1), ("y", 0.2))
    ]
    diff = diff_specs(own)
    assert [field.field for field in diff.differing] == ["model"]
    assert [(field.field, dict(field.values)) for field in diff.partial] == [
        ("model_options.dropout", {"x": 0.1}),
        ("model_options.dropout", {"y": 0.2}),
    ]


def test_numbers_are_told_from_the_baselines() -> None:
    values = {"a": 2, "b": 3.0, "c": math.nan, "d": "many", "e": True, "f": None, "g": -2}
    assert deltas(values, "a") == {
        "a": Delta(0, 0),
        "b": Delta(1.0, 0.5),
        "g": Delta(-4, -2),
        **dict.fromkeys("cdef", Delta(None, None)),
    }
    assert deltas({"a": 0, "b": 1}, "a")["b"] == Delta(1, None)
    assert deltas({"a": -2, "b": 1}, "a")["b"] == Delta(3, 1.5)
    assert deltas({"b": 1}, "a") == {"b": Delta(None, None)}


def test_colours_are_distinct_as_long_as_there_are_enough() -> None:
    assert distinct_styles([0, 1, 2]) == [0, 1, 2]
    assert distinct_styles([3, 3, 3]) == [3, 4, 5]
    assert sorted(distinct_styles([7] * STYLES)) == list(range(STYLES))
    assert len(distinct_styles([0] * (STYLES + 3))) == STYLES + 3


def test_colours_follow_each_other_and_dashes_come_where_an_experiment_has_used_them_up(db: Database) -> None:
    def styles(count: int, experiment: str | None) -> list[Look]:
        found = []
        for _ in range(count):
            with db.begin() as s:
                run, _new = create_run(s, NewRun(spec=None, experiment=experiment), max_queued=100)
                found.append(look_of(run.style))
        return found

    first = styles(10, "sweep")
    assert [look.colour for look in first] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert [look.dash for look in first] == [0] * 8 + [1] * 2
    assert styles(2, None) == [Look(2, 0), Look(3, 0)]
    assert styles(3, "another") == [Look(4, 0), Look(5, 0), Look(6, 0)]
