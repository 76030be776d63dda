"""A trained net with fewer and cheaper layers, for evaluation in bf16 on a CPU.

In evaluation a batch normalisation is a factor and a constant a channel, which the convolution before it can take over;
weights are cast once instead of once a batch; ReLU need not keep what it was given. Digits differ from those of the
layers as they were by bf16's rounding, as bf16's do from fp32's. Runs in fp32 are evaluated as they were built, with
their own bits, and so is everything on a GPU, where it was not measured.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ml.numerics import Numerics


def gains_from_fusion(numerics: Numerics, device: torch.device) -> bool:
    """Where it was measured (docs/training.md)."""
    return numerics.bf16 and device.type == "cpu"


@torch.no_grad()
def fuse(module: nn.Module) -> nn.Module:
    """A copy of `module`, which is in evaluation mode, that answers as it does under autocast to bfloat16, as long as
    its weights are what they are.

    Layers are merged within each `nn.Sequential`. What a module's own code does with its parts stays as it is, and so
    do layers of other kinds, shared with the original. Takes 1 ms for ResNet-8.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        return _cast(module)
    if type(module).forward is nn.Sequential.forward:
        return nn.Sequential(*_merge(list(module.children())))
    alike = copy.copy(module)
    alike._modules = {name: child and fuse(child) for name, child in module._modules.items()}
    return alike


def _merge(layers: list[nn.Module]) -> Iterator[nn.Module]:
    while layers:
        layer = layers.pop(0)
        if not isinstance(layer, nn.Conv2d):
            yield fuse(layer)
            continue
        if layers and isinstance(norm := layers[0], nn.BatchNorm2d) and norm.track_running_stats:
            layer = fuse_conv_bn_eval(layer, norm)
            del layers[0]
        yield _cast(layer)
        if layers and isinstance(layers[0], nn.ReLU):  # of what nobody else has
            yield nn.ReLU(inplace=True)
            del layers[0]


def _cast(layer: nn.Module) -> nn.Module:
    alike = copy.copy(layer)
    alike._parameters = {
        name: None if values is None else nn.Parameter(values.bfloat16(), requires_grad=False)
        for name, values in layer._parameters.items()
    }
    return alike
