"""Nets with their layers merged for evaluation: they answer as they did, and never hide that a run diverged."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ml.catalog import MODELS
from ml.evaluation import Verdict, answer, evaluate
from ml.fused import fuse, gains_from_fusion
from ml.precision import gains_from_bf16
from ml.setup import Setup, prepare
from ml.spec import RunSpec
from tests.bits import assert_same_bits
from tests.test_train import digits

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
MERGED: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in MODELS if gains_from_bf16(name)]


def prepared(model: str, **fields: Any) -> Setup:
    """A run in bf16 whose batch normalisation is not that of a new net, which changes nothing."""
    torch.manual_seed(3)
    spec = RunSpec(model=model, **{"dataset": "digits", "precision": "bf16", "val_size": 40, **fields})
    run = prepare(spec, digits(), CPU)
    for layer in run.answering.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert isinstance(layer.running_mean, Tensor)
            assert isinstance(layer.running_var, Tensor)
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    run.answering.eval()
    return run


def logits(run: Setup, model: nn.Module) -> Tensor:
    return answer(run, model, slice(0, 16))[1]


def kinds(model: nn.Module) -> dict[str, int]:
    """How many layers of each kind the net has."""
    return Counter(
        type(layer).__name__.lstrip("_") for layer in model.modules() if not list(layer.children())
    )


@pytest.mark.parametrize(
    ("model", "options"), [*MERGED, ("resnet8", {"residual": False}), ("resnet50", {"residual": False})]
)
def test_merged_layers_answer_as_those_they_were_made_of(model: str, options: dict[str, Any]) -> None:
    """Nearer to them than bf16 is to fp32, over all models."""
    run = prepared(model, model_options=options)
    before = {name: values.clone() for name, values in run.model.state_dict().items()}
    plain, merged = logits(run, run.model), logits(run, fuse(run.model))
    exact = answer(replace(run, numerics=replace(run.numerics, precision="fp32")), run.model, slice(0, 16))[1]
    scale = exact.std()
    assert (merged - exact).abs().max() < 2 * (plain - exact).abs().max() + 0.005 * scale
    assert (merged - exact).abs().mean() < 0.02 * scale
    assert_same_bits(run.model.state_dict(), before)


def test_what_is_merged() -> None:
    alexnet = prepared("alexnet").model
    assert kinds(fuse(alexnet)) == kinds(alexnet)
    assert all(values.dtype == torch.bfloat16 for values in fuse(alexnet).parameters())
    resnet = prepared("resnet8").model
    assert kinds(resnet)["BatchNorm2d"] == 7
    assert kinds(fuse(resnet)) == {"Conv2d": 7, "Identity": 1, "Linear": 1, "PadShortcut": 2, "ReLU": 4}


class Doubled(nn.Sequential):
    """With a way through of its own."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y + y


def unlike_ours() -> nn.Module:
    """What no model of the catalog has: each would answer otherwise if its layers were merged as theirs are."""
    first = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU())
    second = Doubled(
        nn.Conv2d(8, 8, 3, padding="same", groups=2, bias=False), nn.BatchNorm2d(8, affine=False)
    )
    third = nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    return nn.Sequential(first, second, third, nn.Flatten(), nn.Linear(4 * 100, 3))


def test_nets_that_are_none_of_ours() -> None:
    torch.manual_seed(0)
    model, x = unlike_ours().eval(), torch.randn(5, 1, 12, 12)
    given = x.clone()
    with torch.inference_mode():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.allclose(fuse(model)(x).float(), exact, atol=0.03 * float(exact.std()))
    assert torch.equal(x, given)


def test_each_evaluation_is_of_the_weights_at_hand() -> None:
    for fields in ({}, {"ema": 0.9}):
        run = prepared("resnet8", **fields)
        assert gains_from_fusion(run.numerics, CPU)
        losses = []
        for _ in range(2):
            loss = verdict(run).loss
            assert loss == pytest.approx(float(answer(run, run.answering, slice(0, 40))[0]) / 40, rel=0.01)
            losses.append(loss)
            with torch.no_grad():
                for parameter in run.answering.parameters():
                    parameter.mul_(0.7)
        assert losses[0] != pytest.approx(losses[1], rel=0.01)


def verdict(run: Setup) -> Verdict:
    return next(said for said in evaluate(run) if isinstance(said, Verdict))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("model", ["alexnet", "resnet8"])
def test_a_run_that_diverged_is_not_hidden(model: str, bad: float) -> None:
    """oneDNN's own ReLU makes zeros of what is no number, also where weights are numbers and activations are not."""
    run = prepared(model)
    for parameter in run.model.parameters():
        if parameter.dim() == 4:
            parameter.data[:2] = bad
    plain = answer(run, run.model, slice(0, 40))[0] / 40
    assert not plain.isfinite()
    assert not isfinite(verdict(run).loss)


def test_fp32_and_gpus_are_left_alone() -> None:
    bf16 = prepared("resnet8").numerics
    assert not gains_from_fusion(replace(bf16, precision="fp32"), CPU)
    assert not gains_from_fusion(bf16, torch.device("cuda"))
