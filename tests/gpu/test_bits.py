"""On a GPU too the same seed gives the same bits, also after a resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ml.catalog import MODELS
from tests.bits import assert_same_bits
from tests.gpu.training import STEPS, run, small
from tests.test_models import SMALL_IMAGES
from tests.test_train import ADAMW, SGD

# Those made for photographs also with smaller ones, which other kernels pool.
ENTRIES = [*((name, None) for name in MODELS), *SMALL_IMAGES.items()]


@pytest.mark.parametrize(("name", "options"), ENTRIES)
def test_twice_the_same_bits(device: torch.device, name: str, options: dict[str, Any] | None) -> None:
    """Every model as its recipe trains it."""
    fields = {**MODELS[name].recipe, "epochs": 1, "schedule": "constant"}
    spec = small(name, **(fields if options is None else {**fields, "model_options": options}))
    one, other = run(spec, device), run(spec, device)
    assert one.losses == other.losses
    assert one.evaluations == other.evaluations
    assert_same_bits(one.snapshots[-1], other.snapshots[-1])


DRAWS: dict[str, Any] = {"shift": 2, "flip": True, "cutout": 8}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lenet", SGD),
        ("alexnet", {**ADAMW, **DRAWS}),
        ("resnet8", {**SGD, "ema": 0.9, "clip_norm": 1.0}),
        ("resnet8", {**ADAMW, "precision": "fp32"}),
        ("mlp", {"optimizer": "muon", "lr": 0.02, "momentum": 0.95}),
    ],
)
def test_resume_is_bit_identical(device: torch.device, name: str, fields: dict[str, Any]) -> None:
    """From the middle of an epoch, with the GPU's generator, which draws dropout and augmentation."""
    assert_resumes(device, name, fields)


def assert_resumes(device: torch.device, name: str, fields: dict[str, Any]) -> None:
    spec = small(name, **fields)
    whole = run(spec, device, ask_at=5)
    assert [state["step"] for state in whole.snapshots] == [5, STEPS // 2, STEPS]
    for state in whole.snapshots[:2]:
        torch.manual_seed(99)  # whatever happened in between
        again = run(spec, device, resume=state)
        assert again.losses == {step: x for step, x in whole.losses.items() if step > state["step"]}
        assert again.evaluations == whole.evaluations[-len(again.evaluations) :]
        assert_same_bits(again.snapshots[-1], whole.snapshots[-1])
