"""Muon: which weights it takes, what a step of it is, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ml.catalog import MODELS
from ml.models import build_model
from ml.muon import MuonAdamW, hidden_weights


def lenet() -> nn.Module:
    torch.manual_seed(0)
    options = MODELS["lenet"].options.model_validate({"activation": "relu"})
    return build_model("lenet", options, (1, 28, 28), 10)


def optimizer(model: nn.Module, **fields: float) -> MuonAdamW:
    given = {"lr": 0.01, "momentum": 0.95, "weight_decay": 0.0} | fields
    return MuonAdamW(model, nesterov=False, **given)


def test_it_takes_what_lies_between_the_first_and_the_last_layer() -> None:
    model = lenet()
    assert [tuple(weight.shape) for weight in hidden_weights(model)] == [(16, 6, 5, 5), (120, 256), (84, 120)]
    groups = optimizer(model).param_groups
    counted = sum(p.numel() for group in groups for p in group["params"])
    assert counted == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_step_goes_as_far_in_every_direction(channels_last: bool) -> None:
    """All singular values of a hidden weight's step are near one another, whatever those of its gradient are."""
    model = lenet()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    chosen = optimizer(model)
    x, y = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    for weight in hidden_weights(model):
        before = weight.detach().clone()
        gradient = torch.linalg.svdvals(weight.grad.flatten(1))  # type: ignore[union-attr]
        assert gradient[0] > 20 * gradient[-1]
        chosen.step()
        step = torch.linalg.svdvals((before - weight.detach()).flatten(1))
        solid = step[gradient > 0.01 * gradient[0]]
        assert solid.max() < 2.5 * solid.min()
        rows, columns = before.flatten(1).shape
        assert solid.median() == pytest.approx(0.01 * 0.2 * max(rows, columns) ** 0.5, rel=0.35)


def test_weights_that_are_loaded_later_are_the_ones_it_goes_on_from() -> None:
    model = lenet()
    chosen = optimizer(model, lr=0.0)
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})
    loaded = {name: value.clone() for name, value in model.state_dict().items()}
    F.cross_entropy(model(torch.randn(4, 1, 28, 28)), torch.tensor([1, 2, 3, 4])).backward()  # type: ignore[no-untyped-call]
    chosen.step()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_it_learns_a_batch_by_heart() -> None:
    model = lenet()
    chosen = optimizer(model)
    x, y = torch.randn(32, 1, 28, 28), torch.randint(0, 10, (32,))
    losses = []
    for _ in range(60):
        chosen.zero_grad()
        assert all(p.grad is None for p in model.parameters())
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        chosen.step()
        losses.append(loss.item())
    assert losses[0] > 2
    assert losses[-1] < 0.1
