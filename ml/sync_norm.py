"""Batch normalisation whose statistics are those of the whole batch, however many ranks share it.

The alternative, statistics of each rank's own images as Goyal et al. 2017 have them, would make the number of devices
part of the recipe: the same spec would train differently on one GPU and on four, and comparing them would mislead. On
GPUs it is PyTorch's own SyncBatchNorm, which knows no CPU; there it is the layer below.

B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """The same model with every BatchNorm2d replaced; parameters, buffers and their names stay."""
    if device.type != "cpu":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return synchronised
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum or 0.1)
                shared.weight, shared.bias = child.weight, child.bias
                shared.running_mean, shared.running_var = child.running_mean, child.running_var
                shared.num_batches_tracked = child.num_batches_tracked
                setattr(parent, name, shared)
    return model


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the images of all ranks (Ioffe and Szegedy 2015, algorithm 1), in two sums over them."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        here = wide.new_tensor([x.numel() / x.shape[1]])
        total = _total(torch.cat([wide.sum((0, 2, 3)), here]))
        count = total[-1]
        mean = total[:-1] / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum or 0.1
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        scale = (self.weight * torch.rsqrt(variance + self.eps)).view(1, -1, 1, 1)
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def _total(x: Tensor) -> Tensor:
    """The sum over all ranks, on each of them."""
    total: Tensor = _Total.apply(x)
    return total


class _Total(torch.autograd.Function):
    """Each rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total
