"""One architecture a file; `ml.catalog` names them and `build_model` builds them."""

from __future__ import annotations

import pkgutil

from torch import nn

from ml.catalog import MODELS, ModelOptions


def build_model(name: str, options: ModelOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A fresh model with weights drawn from torch's global generator.

    It maps images [B, *shape] float32 to logits [B, classes].
    """
    model: nn.Module = pkgutil.resolve_name(MODELS[name].build)(options, shape, classes)
    return model


def count_parameters(model: nn.Module) -> int:
    """How many trainable numbers the model has."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
