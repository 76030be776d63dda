"""The length of a step's gradient: of all weights and, if wanted, of each layer; and its limit."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ml.spec import RunSpec

TOTAL = "grad_norm"


def list_layers(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The weights and biases of each convolution and linear layer that learns, by its name in the model.

    Batch normalisation's are in the total only: they would double the curves of a ResNet and tell little.
    """
    found = {}
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if any(p.dim() > 1 for p in own):
            found[name] = own
    return found


def norm_metrics(spec: RunSpec, model: nn.Module) -> list[str]:
    """Names of what `limit_gradients` returns."""
    if spec.grad_norm == "off":
        return []
    layers = list_layers(model) if spec.grad_norm == "layers" else {}
    return [TOTAL, *(f"{TOTAL}/{name or 'model'}" for name in layers)]


def limit_gradients(spec: RunSpec, model: nn.Module) -> list[Tensor]:
    """Cut the gradient to `clip_norm`; return the norms before that which the spec wants recorded, scalars."""
    if spec.clip_norm is None and spec.grad_norm == "off":
        return []
    layers = list_layers(model).values() if spec.grad_norm == "layers" else ()
    norms = [get_total_norm([p.grad for p in layer if p.grad is not None]) for layer in layers]
    weights = [p for p in model.parameters() if p.grad is not None]
    total = get_total_norm([p.grad for p in weights if p.grad is not None])
    if spec.clip_norm is not None:
        clip_grads_with_norm_(weights, spec.clip_norm, total)
    return [] if spec.grad_norm == "off" else [total, *norms]


def is_sound(model: nn.Module, loss: Tensor) -> bool:
    """Whether loss and gradient are numbers. The host waits for the device here, once."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(torch.isfinite(loss) & torch.isfinite(get_total_norm(gradients)))
