"""The fairness verdict: each key is named alone, equal keys are controlled, and what is not known is said."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.compare import RunFacts, Verdict, judge
from app.compare.keys import EXPANDED, KEYS
from app.compare.matching import plan_match
from ml.catalog import MODELS, OPTIMIZERS, SCHEDULES
from ml.spec import RunSpec

Json = dict[str, Any]

RESOLVED: Json = {
    "data_digest": "aa", "val_digest": "vv", "train_images": 6000, "val_images": 10_000, "classes": 10,
    "mean": [0.13], "std": [0.3],
    "parameters": 44_426, "precision": "fp32", "channels_last": False,
    "fused": False, "compile": "off", "deterministic": True,
    "device": "cpu", "device_name": "CPU", "threads": 1, "code": "c0de",
    "python": "3.11", "torch": "2.14", "torchvision": "0.29", "cudnn": "9.0",
}  # fmt: skip
BASE: Json = {"train_size": 6000, "momentum": 0.9}

# One other value for every setting, and the key by which the verdict must name it.
FLIPS: dict[str, tuple[Json, Json]] = {
    "dataset": ({"dataset": "fashion-mnist"}, {"data_digest": "bb", "val_digest": "ww", "mean": [0.28]}),
    "data_digest": ({}, {"data_digest": "bb"}),
    "val_digest": ({}, {"val_digest": "ww"}),
    "train_size": ({"train_size": 3000}, {"train_images": 3000}),
    "val_size": ({"val_size": 500}, {"val_images": 500}),
    "val_from": ({"val_from": "train"}, {"val_images": 6000, "val_digest": "ww"}),
    "input_scaling": ({"input_scaling": "unit"}, {"mean": [0.0], "std": [1.0]}),
    "mean": ({}, {"mean": [0.5]}),
    "std": ({}, {"std": [0.5]}),
    "classes": ({}, {"classes": 9}),
    "batch_size": ({"batch_size": 256}, {}),
    "epochs": ({"epochs": 5}, {}),
    "lr": ({"lr": 0.1}, {}),
    "schedule": ({"schedule": "cosine"}, {}),
    "optimizer": ({"optimizer": "adam"}, {}),
    "momentum": ({"momentum": 0.5}, {}),
    "weight_decay": ({"weight_decay": 5e-4}, {}),
    "precision": ({"precision": "bf16"}, {"precision": "bf16"}),
    "seed": ({"seed": 1}, {}),
    "code": ({}, {"code": "0ther"}),
    "shift": ({"shift": 2}, {}),
    "flip": ({"flip": True}, {}),
    "cutout": ({"cutout": 8}, {}),
    "warmup_epochs": ({"warmup_epochs": 0.5}, {}),
    "nesterov": ({"nesterov": True}, {}),
    "label_smoothing": ({"label_smoothing": 0.1}, {}),
    "clip_norm": ({"clip_norm": 1.0}, {}),
    "ema": ({"ema": 0.999}, {}),
    "patience": ({"patience": 3}, {}),
    "on_nan": ({"on_nan": "continue"}, {}),
    "augmentation": ({"augmentation": "flip"}, {}),  # fields that the spec may get
    "pretrained": ({"pretrained": True}, {}),
    "mixup": ({"mixup": 0.1}, {}),
    "parameters": ({}, {"parameters": 44_427}),
}
NOTES: dict[str, Json] = {
    "channels_last": {"channels_last": True},
    "fused": {"fused": True},
    "compile": {"compile": "inductor"},
    "deterministic": {"deterministic": False},
    "grad_norm": {"grad_norm": "layers"},
    "device": {"device": "cuda:0"},
    "devices": {"devices": 2},
    "device_name": {"device_name": "H100"},
    "threads": {"threads": 2},
    "python": {"python": "3.12"},
    "torch": {"torch": "2.15"},
    "torchvision": {"torchvision": "0.30"},
    "cudnn": {"cudnn": "9.1"},  # resolved by a version to come
}


def facts(run_id: str, spec: Mapping[str, Any] = {}, resolved: Mapping[str, Any] = {}) -> RunFacts:
    """A training that has begun."""
    known = {name: value for name, value in spec.items() if name in RunSpec.model_fields}
    whole = RunSpec(**(BASE | known)).model_dump() | {"mixup": 0.0} | dict(spec)
    return RunFacts(run_id, spec=whole | _options(whole), resolved=RESOLVED | dict(resolved))


def _options(spec: Json) -> Json:
    options = MODELS[spec["model"]].options.model_validate(spec.get("model_options", {}))
    return {"model_options": options.model_dump()}


def confounders(verdict: Verdict) -> list[str]:
    return [confounder.key for confounder in verdict.confounders]


def notes(verdict: Verdict, kind: str) -> list[str]:
    return [note.key for note in verdict.notes if note.kind == kind]


# -- which key is named --------------------------------------------------------------------------------------


def test_every_field_and_every_resolved_fact_has_its_place() -> None:
    """A new one must be put into app.compare.keys, and if it is a setting, into FLIPS."""
    fields = set(RunSpec.model_fields) - set(EXPANDED)
    assert fields <= set(KEYS)
    judged = set(FLIPS) | set(NOTES)
    assert fields - {"model", "patience_metric"} <= judged
    follow = {"train_images", "val_images", "steps_per_epoch", "patience_metric"}
    assert judged >= set(KEYS) - {"model", *follow}


@pytest.mark.slow
def test_what_a_training_resolves_has_its_place(tmp_path: Path) -> None:
    import torch

    from ml.data import load_dataset
    from ml.setup import prepare

    spec = RunSpec(dataset="digits", train_size=64)
    resolved = prepare(spec, load_dataset("digits", tmp_path), torch.device("cpu")).resolved
    assert set(resolved) <= set(KEYS)


@pytest.mark.parametrize("key", FLIPS)
def test_a_key_that_differs_beside_the_model_is_named_alone(key: str) -> None:
    spec, resolved = FLIPS[key]
    verdict = judge([facts("a"), facts("b", {"model": "resnet8", **spec}, {"parameters": 75_002} | resolved)])
    assert verdict.subject == ("model",)
    # Another model has another number of parameters: of no interest there.
    assert confounders(verdict) == ([] if key == "parameters" else [key])
    assert verdict.kind == ("controlled" if key == "parameters" else "confounded")


@pytest.mark.parametrize("key", FLIPS)
def test_a_key_that_differs_alone_is_the_subject(key: str) -> None:
    spec, resolved = FLIPS[key]
    verdict = judge([facts("a"), facts("b", spec, resolved)])
    assert (verdict.confounders, verdict.unknown) == ((), ())
    assert verdict.kind == ("replicates" if key == "seed" else "controlled")
    assert verdict.subject == (() if key == "seed" else (key,))


@pytest.mark.parametrize("key", FLIPS)
def test_two_keys_that_differ_without_the_model_are_both_named(key: str) -> None:
    spec, resolved = FLIPS[key]
    other = ("lr", {"lr": 0.2}) if key != "lr" else ("weight_decay", {"weight_decay": 0.1})
    verdict = judge([facts("a"), facts("b", spec | other[1], resolved)])
    if key == "seed":
        assert (verdict.subject, confounders(verdict)) == ((other[0],), ["seed"])
    else:
        assert verdict.subject == ()
        assert set(confounders(verdict)) == {key, other[0]}
    assert verdict.kind == "confounded"


@pytest.mark.parametrize("key", NOTES)
def test_machines_and_versions_are_a_note(key: str) -> None:
    asked = {
        name: value for name, value in NOTES[key].items() if name in ("devices", "grad_norm")
    }  # a field, and not resolved
    verdict = judge([facts("a"), facts("b", {"model": "resnet8", **asked}, NOTES[key])])
    assert verdict.kind == "controlled"
    assert notes(verdict, "differs") == [key]


def test_equal_runs_are_identical_and_runs_that_differ_in_the_seed_replicates() -> None:
    assert judge([facts("a"), facts("b")]).kind == "identical"
    assert judge([facts(str(seed), {"seed": seed}) for seed in range(5)]).kind == "replicates"
    assert judge([facts("a")]).kind == "single"
    assert judge([]).kind == "none"


def test_the_values_of_a_confounder_are_by_run_and_in_order() -> None:
    runs = [facts("b", {"batch_size": 256}), facts("a", {"model": "resnet8"})]
    (confounder,) = judge(runs).confounders
    assert list(confounder.values.items()) == [("b", 256), ("a", 64)]


def test_what_differs_by_necessity_is_not_named() -> None:
    """All of MNIST is 60,000 images, whether asked for by number or not; auto was fp32; SGD's momentum is no Adam's."""
    asked = {"train_size": 60_000, "val_size": 10_000, "precision": "fp32", "device": "cpu"}
    assert judge([facts("a", {"train_size": None}), facts("b", asked)]).kind == "identical"
    held_out = {"val_from": "train", "train_size": None}
    asked |= {"val_from": "train", "train_size": 54_000, "val_size": 6_000}
    assert judge([facts("a", held_out), facts("b", asked)]).kind == "identical"

    adam = [
        facts("a", {"optimizer": "adam", "momentum": 0.0}),
        facts("b", {"optimizer": "adam", "model": "resnet8"}),
    ]
    verdict = judge(adam)
    assert verdict.kind == "controlled"
    assert notes(verdict, "ignored") == ["momentum"]

    verdict = judge([facts("a", {"optimizer": "adam", "momentum": 0.0}), facts("b")])
    assert verdict.subject == ("optimizer",)


def test_what_stops_a_run_matters_only_where_something_does() -> None:
    by_accuracy = {"patience_metric": "accuracy"}
    assert judge([facts("a"), facts("b", by_accuracy)]).kind == "identical"
    assert judge([facts("a", {"patience": 3}), facts("b", {"patience": 5, **by_accuracy})]).subject == (
        "patience",
    )
    assert judge([facts("a", {"patience": 3}), facts("b", {"patience": 3, **by_accuracy})]).subject == (
        "patience_metric",
    )


BF16 = {"precision": "bf16", "channels_last": True, "fused": True}


def test_precision_that_auto_chose_follows_from_the_model_and_from_nothing_else() -> None:
    assert judge([facts("a"), facts("b", {"model": "resnet8"}, BF16)]).kind == "controlled"
    same = judge([facts("a"), facts("b", {}, BF16)])  # on another machine, for one
    assert same.subject == ("precision",)
    assert confounders(judge([facts("a"), facts("b", {"lr": 0.5}, BF16)])) == ["lr", "precision"]


def test_precision_that_was_asked_for_confounds_and_can_be_matched() -> None:
    asked = [facts("a"), facts("b", {"model": "resnet8", "precision": "bf16"}, BF16)]
    asked = [replace(run, spec={k: v for k, v in run.spec.items() if k != "mixup"}) for run in asked]
    verdict = judge(asked)
    assert confounders(verdict) == ["precision"]
    (rerun,) = plan_match(asked, verdict).reruns
    assert (rerun.odd, rerun.spec.model, rerun.spec.precision) == ("b", "resnet8", "fp32")


def test_a_match_leaves_out_what_the_optimizer_does_not_take() -> None:
    """The reference has Nesterov momentum, which AdamW has not, and a spec with both would be refused."""
    sgd = {"nesterov": True, "lr": 0.1}
    runs = [facts("a", sgd), facts("b", {"optimizer": "adamw", "momentum": 0.0})]
    runs = [replace(run, spec={k: v for k, v in run.spec.items() if k != "mixup"}) for run in runs]
    verdict = judge(runs, ["optimizer"])
    assert confounders(verdict) == ["lr"]
    (rerun,) = plan_match(runs, verdict, "a").reruns
    assert (rerun.odd, rerun.spec.optimizer, rerun.spec.lr, rerun.spec.nesterov) == ("b", "adamw", 0.1, False)


def test_updates_that_follow_from_a_setting_are_told() -> None:
    verdict = judge([facts("a"), facts("b", {"batch_size": 128, "model": "resnet8"})])
    (note,) = (note for note in verdict.notes if note.kind == "updates")
    assert note.values == {"a": 282, "b": 141}


def test_options_of_one_model_are_settings_of_their_own() -> None:
    options = [{"activation": "relu"}, {"activation": "tanh"}, {"activation": "relu", "pooling": "avg"}]
    runs = [facts(str(n), {"model_options": o}) for n, o in enumerate(options)]
    assert judge(runs[:2]).subject == ("model_options.activation",)
    assert set(confounders(judge(runs[1:]))) == {"model_options.activation", "model_options.pooling"}

    with_another = judge([*runs[:2], facts("r", {"model": "resnet8"})])
    assert (with_another.kind, with_another.subject) == ("controlled", ("model", "model_options.activation"))
    assert len(with_another.groups) == 3


# -- no false alarm ------------------------------------------------------------------------------------------

SPECS: st.SearchStrategy[Json] = st.builds(
    dict,
    dataset=st.just("mnist"),
    train_size=st.none() | st.integers(100, 60_000),
    val_size=st.none() | st.integers(100, 10_000),
    epochs=st.integers(1, 20),
    batch_size=st.integers(1, 512),
    lr=st.floats(1e-5, 1),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    momentum=st.floats(0, 0.99),
    weight_decay=st.floats(0, 0.1),
    schedule=st.sampled_from(list(SCHEDULES)),
    seed=st.integers(0, 2**32 - 1),
    input_scaling=st.sampled_from(["standardize", "unit", "raw"]),
    precision=st.sampled_from(["auto", "fp32"]),
)


def random_options(model: str, draw: random.Random) -> Json:
    fields = MODELS[model].options.model_fields
    choices: dict[str, Sequence[Any]] = {
        "activation": ["sigmoid", "tanh", "relu"],
        "pooling": ["max", "avg"],
        "init": ["default", "xavier"],
        "dropout": [0.0, 0.25, 0.5],
        "residual": [True, False],
    }
    return {name: draw.choice(choices.get(name, [field.default])) for name, field in fields.items()}


def test_no_false_alarm_in_a_thousand_pairs_that_differ_only_in_the_model() -> None:
    """But for pretrained ones, which begin with more than their architecture."""
    draw = random.Random(0)
    fresh = [name for name, model in MODELS.items() if model.pretrained is None]
    for _ in range(1_000):
        spec = {
            "train_size": draw.choice([None, draw.randint(100, 60_000)]),
            "epochs": draw.randint(1, 20),
            "batch_size": draw.randint(1, 512),
            "lr": 10 ** draw.uniform(-5, 0),
            "optimizer": draw.choice(list(OPTIMIZERS)),
            "momentum": draw.choice([0, 0.0, 0.5, 0.9]),
            "weight_decay": draw.choice([0, 0.0, 5e-4]),
            "schedule": draw.choice(list(SCHEDULES)),
            "seed": draw.randint(0, 2**32 - 1),
            "input_scaling": draw.choice(["standardize", "unit", "raw"]),
        }
        models = draw.sample(fresh, 2)
        pair = [
            facts(
                model,
                spec | {"model": model, "model_options": random_options(model, draw)},
                {"parameters": MODELS[model].parameters},
            )
            for model in models
        ]
        verdict = judge(pair)
        assert (verdict.kind, verdict.subject[0], verdict.confounders) == ("controlled", "model", ())


@given(spec=SPECS, seeds=st.sets(st.integers(0, 99), min_size=1, max_size=5), order=st.randoms())
def test_models_crossed_with_seeds_are_controlled_in_any_order(
    spec: Json, seeds: set[int], order: random.Random
) -> None:
    runs = [
        facts(f"{model}-{seed}", spec | {"model": model, "seed": seed})
        for model in ("lenet", "alexnet", "resnet8")
        for seed in seeds
    ]
    order.shuffle(runs)
    verdict = judge(runs)
    assert (verdict.kind, verdict.subject) == ("controlled", ("model",))
    assert sorted(len(group.runs) for group in verdict.groups) == [len(seeds)] * 3


@given(
    flips=st.lists(st.sampled_from([*FLIPS, "model", "nothing"]), min_size=2, max_size=6),
    order=st.randoms(),
)
def test_the_order_of_the_runs_does_not_matter(flips: list[str], order: random.Random) -> None:
    table = FLIPS | {"model": ({"model": "resnet8"}, {}), "nothing": ({}, {})}
    runs = [facts(str(n), *table[flip]) for n, flip in enumerate(flips)]
    first = judge(runs)
    order.shuffle(runs)
    second = judge(runs)
    assert (first.kind, first.subject) == (second.kind, second.subject)
    assert set(confounders(first)) == set(confounders(second))
    assert {frozenset(g.runs) for g in first.groups} == {frozenset(g.runs) for g in second.groups}


def test_numbers_and_truths() -> None:
    assert judge([facts("a", {"momentum": 0}), facts("b", {"momentum": 0.0})]).kind == "identical"
    runs = [facts("a", {"clipping": 1}), facts("b", {"clipping": True})]
    assert judge(runs).subject == ("clipping",)


# -- seeds, crossings, subjects ------------------------------------------------------------------------------


def grid(**fields: Sequence[Any]) -> list[RunFacts]:
    """Runs of every combination of the fields' values."""
    specs: list[Json] = [{}]
    for name, values in fields.items():
        specs = [spec | {name: value} for spec in specs for value in values]
    return [facts("-".join(str(v) for v in spec.values()), spec) for spec in specs]


def test_different_seeds_confound_and_missing_ones_are_told() -> None:
    lenet = grid(model=["lenet"], seed=[0, 1, 2])
    assert confounders(judge(lenet + grid(model=["resnet8"], seed=[3, 4, 5]))) == ["seed"]

    verdict = judge(lenet + grid(model=["resnet8"], seed=[0, 1]))
    assert verdict.kind == "controlled"
    assert notes(verdict, "unbalanced") == ["seed"]
    assert [group.seeds for group in verdict.groups] == [(0, 1, 2), (0, 1)]


def test_a_setting_that_varies_within_each_group_alike_is_crossed() -> None:
    runs = grid(model=["lenet", "resnet8"], lr=[0.01, 0.1], seed=[0, 1])
    verdict = judge(runs)
    assert (verdict.kind, verdict.subject) == ("controlled", ("model",))
    assert notes(verdict, "crossed") == ["lr"]

    by_lr = judge(runs, ["lr"])
    assert (by_lr.kind, by_lr.subject) == ("controlled", ("lr",))
    assert notes(by_lr, "crossed") == ["model"]

    assert confounders(judge(runs[:-2])) == ["lr"]  # one corner of the grid is missing


def test_settings_in_other_combinations_confound() -> None:
    left = [facts("a", {"lr": 0.1}), facts("b", {"lr": 0.2, "batch_size": 32})]
    right = [
        facts("c", {"model": "resnet8", "lr": 0.2}),
        facts("d", {"model": "resnet8", "lr": 0.1, "batch_size": 32}),
    ]
    assert set(confounders(judge(left + right))) == {"lr", "batch_size"}


def test_a_subject_that_is_the_same_everywhere_is_told() -> None:
    verdict = judge(grid(model=["lenet", "resnet8"]), ["lr"])
    assert (verdict.kind, verdict.subject) == ("controlled", ("model",))
    assert notes(verdict, "subject_same") == ["lr"]


def test_repeats_are_told() -> None:
    runs = grid(model=["lenet", "resnet8"])
    verdict = judge([*runs, replace(runs[0], id="again")])
    assert verdict.kind == "controlled"
    (note,) = (note for note in verdict.notes if note.kind == "repeats")
    assert set(note.values) == {"lenet", "again"}


# -- what is not known ---------------------------------------------------------------------------------------


def test_runs_that_have_not_begun_are_neither_cleared_nor_accused() -> None:
    queued = [replace(run, state="queued", resolved={}) for run in grid(model=["lenet", "resnet8"])]
    verdict = judge(queued)
    assert (verdict.kind, verdict.subject, confounders(verdict)) == ("incomplete", ("model",), [])
    assert {u.key for u in verdict.unknown} == {"data_digest", "code", "precision"}
    assert {u.reason for u in verdict.unknown} == {"not_begun"}

    begun = judge([facts("a"), queued[1]])
    assert begun.kind == "incomplete"
    assert {u.runs for u in begun.unknown} == {("resnet8",)}

    assert judge([facts("a"), replace(queued[1], spec={**queued[1].spec, "lr": 0.5})]).kind == "confounded"


def test_an_outside_script_is_asked_for_what_it_does_not_say() -> None:
    params = {"model": "ViT", "dataset": "MNIST", "learning_rate": "0.01", "bs": 64, "epochs": 3}
    verdict = judge([facts("a"), RunFacts("b", kind="external", spec=params)])
    assert verdict.kind == "incomplete"
    assert verdict.subject == ("model",)
    missing = {unknown.key for unknown in verdict.unknown}
    assert missing >= {"data_digest", "optimizer", "weight_decay", "schedule", "seed", "code", "train_size"}
    assert not missing & {"lr", "batch_size", "epochs", "dataset", "model", "augmentation", "pretrained"}

    more = RunFacts("c", kind="external", spec=params | {"pretrained": "yes", "augment": "none"})
    verdict = judge([facts("a"), more])
    assert confounders(verdict) == ["pretrained"]


def test_the_texts_of_scripts_are_read_as_what_they_are() -> None:
    said = {
        "model": "VIT",
        "lr": "1e-2",
        "pretrained": "True",
        "nesterov": "False",
        "commit": "12e4567",
        "seed": "3",
    }
    meant = {"model": "vit", "lr": 0.01, "pretrained": True, "nesterov": False, "code": "12e4567", "seed": 3}
    runs = [RunFacts(name, kind="external", spec=spec) for name, spec in (("a", said), ("b", meant))]
    assert judge(runs).kind == "incomplete"
    other = RunFacts("c", kind="external", spec=meant | {"code": "12e04567"})
    assert judge([runs[1], other]).subject == ("code",)


def test_outside_scripts_that_say_nothing_are_not_one_group() -> None:
    runs = [RunFacts(name, kind="external") for name in "ab"]
    verdict = judge(runs)
    assert verdict.kind == "incomplete"
    assert verdict.subject == ()

    named = judge([RunFacts("a", kind="external", spec={"model": "x"}), *runs[1:]], ["model"])
    assert "model" in {unknown.key for unknown in named.unknown}


# -- the way to a fair comparison ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted((set(FLIPS) & set(RunSpec.model_fields)) - {"dataset"}))
@pytest.mark.parametrize("baseline", ["a", "b"])
def test_the_matched_run_makes_the_comparison_controlled(key: str, baseline: str) -> None:
    runs = [plain(facts("a")), plain(facts("b", {"model": "resnet8", **FLIPS[key][0]}, FLIPS[key][1]))]
    (rerun,) = plan_match(runs, judge(runs), baseline).reruns
    reference = next(run for run in runs if run.id == baseline)
    assert (rerun.odd, rerun.reference) == ("b" if baseline == "a" else "a", baseline)
    again = replace(reference, id="again", spec=rerun.spec.model_dump())
    verdict = judge([reference, again])
    assert (verdict.kind, verdict.subject) == ("controlled", ("model",))


def plain(run: RunFacts) -> RunFacts:
    """Without the field that no spec has yet."""
    return replace(run, spec={name: value for name, value in run.spec.items() if name != "mixup"})


def test_missing_code_or_data_cannot_be_matched_by_a_setting() -> None:
    runs = [facts("a"), facts("b", {"model": "resnet8"}, {"code": "0ther"})]
    plan = plan_match(runs, judge(runs))
    assert (plan.reruns, plan.obstacle, plan.keys) == ((), "not_settable", ("code",))
