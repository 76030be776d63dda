"""RunSpec is closed and bounded: what it refuses, and beside which field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ml.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES
from ml.spec import MAX_STEPS, RunSpec, in_todays_words

NO_NUMBERS: list[Any] = [True, "1e5", "3", None, [1], {"a": 1}]


def place(error: pytest.ExceptionInfo[ValidationError]) -> tuple[Any, ...]:
    return error.value.errors()[0]["loc"]


@pytest.mark.parametrize(
    "field",
    [
        "epochs",
        "batch_size",
        "seed",
        "lr",
        "momentum",
        "weight_decay",
        "shift",
        "cutout",
        "warmup_epochs",
        "ema",
    ],
)
@pytest.mark.parametrize("value", [*NO_NUMBERS, float("nan"), float("inf"), -1, 2**63, -(2**63), 1e300])
def test_numbers_are_strict_finite_and_bounded(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        RunSpec(**{field: value})
    assert place(error) == (field,)


@pytest.mark.parametrize("field", ["lr", "momentum", "weight_decay"])
@pytest.mark.parametrize("token", ["1e999", "-1e999", "NaN", "Infinity"])
def test_json_numbers_beyond_floats_are_refused(field: str, token: str) -> None:
    with pytest.raises(ValidationError):
        RunSpec.model_validate_json(f'{{"{field}": {token}}}')
    with pytest.raises(ValidationError) as error:
        RunSpec.model_validate(json.loads(f'{{"{field}": {token}}}'))
    assert place(error) == (field,)


@pytest.mark.parametrize("field", ["epochs", "batch_size", "train_size", "val_size"])
@pytest.mark.parametrize("value", [0, -0, 1.5])
def test_counts_start_at_one(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        RunSpec(**{field: value})
    assert place(error) == (field,)


def test_zero_and_minus_zero() -> None:
    with pytest.raises(ValidationError):
        RunSpec(lr=-0.0)
    assert RunSpec(momentum=-0.0).momentum == 0
    assert RunSpec(seed=0).seed == 0
    assert RunSpec(lr=1).lr == 1.0  # an integer is a number


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError) as error:
        RunSpec(learning_rate=0.1)  # type: ignore[call-arg]
    assert place(error) == ("learning_rate",)


@pytest.mark.parametrize(
    ("field", "choices"),
    [("model", MODELS), ("dataset", DATASETS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)],
)
def test_unknown_names_are_refused_with_the_known_ones(field: str, choices: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"unknown {field} 'x' *; choose one of") as error:
        RunSpec(**{field: "x"})  # type: ignore[arg-type]
    assert place(error) == (field,)
    assert all(name in str(error.value) for name in choices)


@pytest.mark.parametrize(
    ("model", "options", "where"),
    [
        ("lenet", {"activation": "gelu"}, ("model_options", "activation")),
        ("lenet", {"dropout": 0.5}, ("model_options", "dropout")),
        ("alexnet", {"dropout": 1.0}, ("model_options", "dropout")),
        ("alexnet", {"dropout": float("nan")}, ("model_options", "dropout")),
        ("alexnet", {"dropout": "0.5"}, ("model_options", "dropout")),
        ("resnet8", {"residual": 1}, ("model_options", "residual")),
        ("resnet8", {"residual": "yes"}, ("model_options", "residual")),
    ],
)
def test_model_options_are_the_models_own(
    model: str, options: dict[str, Any], where: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as error:
        RunSpec(model=model, model_options=options)
    assert place(error) == where


def test_model_options_are_stored_whole() -> None:
    spec = RunSpec(model="lenet", model_options={"activation": "relu"})
    assert spec.model_options == {"activation": "relu", "pooling": "max", "init": "default"}


@pytest.mark.parametrize(
    ("dataset", "field"), [("digits", "train_size"), ("digits", "val_size"), ("mnist", "train_size")]
)
def test_sizes_stay_within_the_data_set(dataset: str, field: str) -> None:
    have = getattr(DATASETS[dataset], field)
    assert getattr(RunSpec(dataset=dataset, **{field: have}), field) == have
    with pytest.raises(ValidationError, match=f"has {have} images there") as error:
        RunSpec(dataset=dataset, **{field: have + 1})
    assert place(error) == (field,)


@pytest.mark.parametrize(
    ("asked", "train", "val"),
    [
        ({}, 1_437, 360),
        ({"val_size": 100}, 1_437, 100),
        ({"val_from": "train"}, 1_294, 143),
        ({"val_from": "train", "val_size": 400}, 1_037, 400),
        ({"val_from": "train", "train_size": 1_294}, 1_294, 143),
    ],
)
def test_how_many_images_are_trained_and_validated_on(asked: dict[str, Any], train: int, val: int) -> None:
    spec = RunSpec(dataset="digits", batch_size=1, **asked)
    assert spec.sizes == (train, val)
    assert spec.steps_per_epoch == train


@pytest.mark.parametrize(
    ("asked", "field", "have"),
    [
        ({"val_size": 1_437}, "val_size", 1_436),
        ({"train_size": 1_295}, "train_size", 1_294),
        ({"train_size": 1_000, "val_size": 438}, "train_size", 999),
    ],
)
def test_images_that_are_held_out_are_not_trained_on(asked: dict[str, Any], field: str, have: int) -> None:
    with pytest.raises(ValidationError, match=f"has {have} images there") as error:
        RunSpec(dataset="digits", val_from="train", **asked)
    assert place(error) == (field,)


def test_endless_runs_are_refused() -> None:
    with pytest.raises(ValidationError, match=f"over {MAX_STEPS}") as error:
        RunSpec(dataset="mnist", epochs=10_000, batch_size=1)
    assert place(error) == ("epochs",)


@given(
    train_size=st.none() | st.integers(1, 60_000),
    batch_size=st.integers(1, 65_536),
    epochs=st.integers(1, 100),
    lr=st.floats(min_value=0, max_value=10, exclude_min=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_spec_survives_json_and_counts_its_steps(
    train_size: int | None, batch_size: int, epochs: int, lr: float, seed: int
) -> None:
    spec = RunSpec(train_size=train_size, batch_size=batch_size, epochs=epochs, lr=lr, seed=seed)
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert RunSpec(**json.loads(spec.model_dump_json())) == spec
    n = train_size or 60_000
    assert (spec.steps_per_epoch - 1) * batch_size < n <= spec.steps_per_epoch * batch_size
    assert spec.total_steps == epochs * spec.steps_per_epoch


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_whatever_comes_in_is_a_spec_or_a_validation_error(value: Any) -> None:
    for field in RunSpec.model_fields:
        try:
            RunSpec(**{field: value})
        except ValidationError:
            continue


@pytest.mark.parametrize(
    ("fields", "named", "remedy"),
    [
        ({"nesterov": True}, "nesterov", "0.9 is usual"),
        ({"warmup_epochs": 1, "schedule": "onecycle"}, "warmup_epochs", "leave this at 0"),
        ({"warmup_epochs": 3, "epochs": 3}, "warmup_epochs", "shorter"),
        ({"clip_norm": 0}, "clip_norm", "greater than 0"),
        ({"label_smoothing": 1}, "label_smoothing", "less than 1"),
        ({"ema": 1}, "ema", "less than 1"),
        ({"flip": "yes"}, "flip", "boolean"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov", "Adam has no such momentum; turn nesterov off"),
        ({"nesterov": True, "optimizer": "adamw"}, "nesterov", "turn nesterov off, or choose sgd or muon"),
        ({"fused": "on", "optimizer": "muon"}, "fused", "leave this at auto or off"),
        ({"deterministic": "true"}, "deterministic", "'auto', 'on' or 'off'"),
        ({"deterministic": 1}, "deterministic", "'auto', 'on' or 'off'"),
    ],
)
def test_fine_points_that_cannot_be_are_refused(fields: dict[str, Any], named: str, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy) as error:
        RunSpec(**fields)
    assert place(error) == (named,)


GRAPH: list[tuple[dict[str, Any], str]] = [
    ({"device": "cpu"}, "set device to auto or cuda"),
    ({"devices": 2}, "set devices to 1"),
    ({"optimizer": "muon"}, "choose another optimizer"),
    ({"on_nan": "continue"}, "set on_nan to fail"),
]


@pytest.mark.parametrize(("fields", "remedy"), GRAPH)
def test_a_graph_that_no_machine_can_record_is_refused(fields: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValidationError, match=f"{remedy}.*auto or off") as error:
        RunSpec(compile="graph", **fields)
    assert place(error) == ("compile",)
    assert RunSpec(compile="off", **fields)


def test_what_a_graph_can_record_is_accepted() -> None:
    assert RunSpec(
        compile="graph", optimizer="adamw", clip_norm=1.0, grad_norm="layers", ema=0.999, device="cuda"
    )


@pytest.mark.parametrize(
    "fields",
    [
        *({"compile": "graph", **fields} for fields, _ in GRAPH),
        {"nesterov": True, "optimizer": "adamw"},
        {"fused": "on", "optimizer": "muon"},
    ],
)
def test_a_stored_spec_is_read_by_the_rules_of_its_time(fields: dict[str, Any]) -> None:
    read = RunSpec.read_stored(fields)
    assert {name: getattr(read, name) for name in fields} == fields
    with pytest.raises(ValidationError):
        RunSpec.model_validate(fields)
    with pytest.raises(ValidationError):  # what was never accepted is not now
        RunSpec.read_stored({"lr": -1})


@pytest.mark.parametrize(("before", "now"), [(True, "on"), (False, "off")])
def test_deterministic_was_a_boolean_once(before: bool, now: str) -> None:
    assert RunSpec.model_validate({"deterministic": before}).deterministic == now
    assert RunSpec.model_validate_json(json.dumps({"deterministic": before})).deterministic == now
    assert in_todays_words({"lr": 1.0, "deterministic": before}) == {"lr": 1.0, "deterministic": now}
    assert in_todays_words({"lr": 1.0}) == {"lr": 1.0}
    assert RunSpec().deterministic == "auto"
