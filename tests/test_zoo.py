"""Every model of the catalog, with its defaults and with every other option: three steps on a CPU, and a resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ml.catalog import MODELS
from ml.models import build_model
from ml.models.pretrained import start_from
from ml.spec import RunSpec
from tests.test_models import SMALL_IMAGES, VARIANTS, variant_name
from tests.test_train import (
    LARGE,
    SGD,
    assert_resumes,
    collect,
    digits,
    last_state,
    series,
    spec_of,
    weights_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

ENTRIES = [*((name, SMALL_IMAGES.get(name, {})) for name in MODELS), *VARIANTS]
# Of the large ones the smallest; tests/test_train.py resumes all with their defaults.
RESUMED = [
    (name, options) for name, options in VARIANTS if MODELS[name].parameters < LARGE or name == "resnet18"
]


def fresh(spec: RunSpec) -> nn.Module:
    """The model as its run begins."""
    torch.manual_seed(spec.seed)
    data = digits()
    options = MODELS[spec.model].options.model_validate(spec.model_options)
    model = build_model(spec.model, options, data.shape, data.classes)
    weights = weights_of(spec)
    if weights is not None:
        start_from(model, weights)
    return model


@pytest.mark.parametrize(("name", "options"), ENTRIES, ids=variant_name)
def test_three_steps_move_every_weight_that_learns(name: str, options: dict[str, Any]) -> None:
    """With the optimizer and rate of its recipe; the losses are numbers."""
    recipe = {**MODELS[name].recipe, "schedule": "constant", "model_options": options}
    spec = spec_of(model=name, train_size=6, val_size=2, batch_size=2, epochs=1, precision="fp32", **recipe)
    events = collect(spec)
    losses = series(events, "train/loss")
    assert list(losses) == [1, 2, 3]
    assert all(math.isfinite(loss) for loss in losses.values())
    before, after = fresh(spec), last_state(events)["model"]
    for label, weight in before.named_parameters():
        assert torch.isfinite(after[label]).all(), label
        assert torch.equal(after[label], weight) != weight.requires_grad, label


@pytest.mark.parametrize(("name", "options"), RESUMED, ids=variant_name)
def test_resume_is_bit_identical_with_other_options(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    spec = spec_of(model=name, train_size=5, val_size=4, batch_size=2, model_options=options, **SGD)
    assert_resumes(tmp_path, spec)
