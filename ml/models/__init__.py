"""One architecture a file; `ml.catalog` names them and `build_model` builds them."""

from __future__ import annotations

import pkgutil

from torch import nn

from ml.catalog import MODELS, ModelOptions


def build_model(name: str, options: ModelOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A fresh model with weights drawn from torch's global generator.

    It maps images [B, *shape] float32 to logits [B, classes].

    Raises:
        ValueError: the images are too small for the model, or have a number of channels that it does not take.
    """
    least = MODELS[name].smallest
    if min(shape[1:]) < least:
        raise ValueError(
            f"{MODELS[name].title} needs images of at least {least}x{least}, not {shape[1]}x{shape[2]}"
        )
    model: nn.Module = pkgutil.resolve_name(MODELS[name].build)(options, shape, classes)
    return model


def count_parameters(model: nn.Module) -> int:
    """How many trainable numbers the model has."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
