"""Recipes are specs that hold, the form fills them in, and the documented figures are those of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.catalog import describe
from app.web import forms
from app.web.forms import from_query, outcome_figure, outcome_words, read_spec
from benchmarks.recipes import describe_outcomes
from ml.catalog import MODELS
from ml.datasets import BUILT_IN, DATASETS
from ml.recipes import FEW, MEASURED, Outcome, find_recipe
from ml.registrar import Wanted, add_dataset
from ml.spec import RunSpec

PAIRS = [(model, dataset) for model in MODELS for dataset in BUILT_IN]
DOCS = Path(__file__).parent.parent / "docs" / "training.md"


@pytest.mark.parametrize(("model", "dataset"), PAIRS)
def test_every_recipe_is_a_spec_and_what_the_form_fills_in(model: str, dataset: str) -> None:
    recipe = find_recipe(model, dataset)
    spec = RunSpec(model=model, dataset=dataset, **recipe.fields)
    typed = from_query({"model": model, "dataset": dataset})
    assert typed.errors == {}
    assert read_spec(typed) == spec


@pytest.mark.parametrize(("images", "epochs"), [(60, 20), (FEW, 5)])
def test_a_data_set_of_ones_own_is_learnt_by_its_size(tmp_path: Path, images: int, epochs: int) -> None:
    pixels, labels = np.zeros((images, 16, 16), np.uint8), np.arange(images) % 2
    np.savez(tmp_path / "a.npz", train_X=pixels, train_y=labels, test_X=pixels[:20], test_y=labels[:20])
    add_dataset(tmp_path, "mine", tmp_path / "a.npz", Wanted())
    DATASETS.look_in(tmp_path)
    try:
        recipe = find_recipe("lenet", "mine")
        assert recipe.fields == {**MODELS["lenet"].recipe, "epochs": epochs}
        assert recipe.outcome is None
        assert RunSpec(model="lenet", dataset="mine", **recipe.fields).epochs == epochs
    finally:
        DATASETS.look_in(tmp_path / "nothing")


def test_what_was_given_stays_beside_the_recipe() -> None:
    typed = from_query({"model": "resnet8", "dataset": "mnist", "lr": "0.3", "epochs": "2"})
    assert (typed.texts["lr"], typed.texts["epochs"]) == ("0.3", "2")
    assert typed.texts["batch_size"] == "128"
    assert typed.texts["shift"] == "2"


def test_what_a_recipe_sets_is_not_folded_away(tmp_path: Path) -> None:
    groups = {g.title: g for g in forms.groups(from_query({"model": "resnet8"}), tmp_path)}
    assert groups["Augmentation"].opened
    assert groups["Fine points"].opened
    assert not groups["Arithmetic"].opened


def test_outcomes_in_words() -> None:
    assert outcome_figure(Outcome(99.352, 0.06, 3, 64)) == "99.35 ± 0.06 % (3 seeds)"
    assert outcome_figure(Outcome(99.352, 0, 1, 64)) == "99.35 % (one seed)"
    assert "in 1 min 4 s of one CPU core" in outcome_words(Outcome(99.35, 0.06, 3, 64))
    assert outcome_words(None) == ""


def test_the_api_tells_recipes_and_outcomes(tmp_path: Path) -> None:
    told = {m["name"]: m["recipes"] for m in describe(tmp_path)["models"]}
    assert told["lenet"]["mnist"]["fields"] == dict(find_recipe("lenet", "mnist").fields)
    assert told["lenet"]["mnist"]["outcome"]["seeds"] == 3
    assert told["lenet"]["cifar10"]["outcome"] is None


def test_lenet_and_a_resnet_reach_what_they_must_on_mnist() -> None:
    """The goals: LeNet over 99.0 %, a ResNet over 99.5 % in at most ten epochs."""
    for model, goal in (("lenet", 99.0), ("resnet8", 99.5)):
        recipe = find_recipe(model, "mnist")
        assert recipe.outcome is not None
        assert recipe.outcome.accuracy > goal
        assert recipe.fields["epochs"] <= 10


def test_the_documented_table_is_that_of_the_code() -> None:
    assert describe_outcomes() in DOCS.read_text(), "run python -m benchmarks.recipes --table"
    assert describe_outcomes().count("\n") == sum(r.outcome is not None for r in MEASURED.values()) + 1


def test_recipes_import_no_torch() -> None:
    code = "import sys, ml.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
