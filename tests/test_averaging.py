"""The running average of weights: the bits of PyTorch's own, and checkpoints that know no difference."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ml.averaging import average, take_in
from tests.bits import assert_same_bits


def a_model() -> nn.Module:
    """Weights, frozen ones, statistics, and a count of batches in integers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))
    model[3].bias.requires_grad_(False)
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.rand(8, 1, 8, 8)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_bits_are_those_of_pytorchs_own_update(decay: float) -> None:
    model = a_model()
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    ours = average(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    assert_same_bits(ours.state_dict(), theirs.state_dict())
    for _ in range(12):
        step(model, optimizer)
        theirs.update_parameters(model)
        take_in(ours, model, decay)
        assert_same_bits(ours.state_dict(), theirs.state_dict())
    assert int(ours.n_averaged) == 12
    batches = ours.state_dict()["module.1.num_batches_tracked"]
    assert batches.dtype == torch.int64
    assert 0 < int(batches) <= 12


def test_a_checkpoint_of_pytorchs_own_goes_on() -> None:
    model = a_model()
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)  # type: ignore[no-untyped-call]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        step(model, optimizer)
        theirs.update_parameters(model)
    ours = average(a_model())
    ours.load_state_dict(deepcopy(theirs.state_dict()))
    step(model, optimizer)
    theirs.update_parameters(model)
    take_in(ours, model, 0.9)
    assert_same_bits(ours.state_dict(), theirs.state_dict())


def test_the_average_keeps_no_graph_and_shares_nothing_with_the_model() -> None:
    model = a_model()
    ours = average(model)
    for _ in range(2):
        take_in(ours, model, 0.9)
    for mine, theirs in zip(ours.module.parameters(), model.parameters(), strict=True):
        assert mine.grad_fn is None
        assert mine.data_ptr() != theirs.data_ptr()
