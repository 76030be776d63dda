"""A running average of a model's weights, which is evaluated in its place: `ema` in the spec.

PyTorch's AveragedModel keeps it, and its names in a checkpoint are those of that class. Its own `update_parameters`
copies its counter to the device once a kind of numbers at every step, which a GPU's queue is waited for; the update
here has the same bits (tests/test_averaging.py) and leaves the counter where it is.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average(model: nn.Module) -> AveragedModel:
    """An average of weights and of batch normalisation's statistics; it begins as a copy."""
    return AveragedModel(model, use_buffers=True)


@torch.no_grad()
def take_in(averaged: AveragedModel, model: nn.Module, decay: float) -> None:
    """Move the average towards the model, by `1 - decay` of the way; the first time it becomes a copy."""
    pairs = zip(_numbers(averaged.module), _numbers(model), strict=True)
    if int(averaged.n_averaged) == 0:  # on the CPU, whatever the model is on
        for mine, new in pairs:
            mine.copy_(new)
    else:
        of_kind: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for mine, new in pairs:
            whole, moving = of_kind.setdefault(mine.dtype, ([], []))
            whole.append(mine)
            moving.append(new)
        for dtype, (whole, moving) in of_kind.items():
            if dtype.is_floating_point:
                torch._foreach_lerp_(whole, moving, 1 - decay)
                continue
            for count, now in zip(
                whole, moving, strict=True
            ):  # batch normalisation's of batches, which nobody reads
                count.copy_(count * decay + now * (1 - decay))
    averaged.n_averaged += 1


def _numbers(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
