"""How many images a run trains on and is validated on. Imports no torch: forms and estimates ask too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml.datasets import Dataset

HELD_OUT = 10  # one image in so many, as He et al. 2016, section 4.2, keep 5,000 of CIFAR-10's 50,000


class Sizes(NamedTuple):
    train: int
    val: int


def count_images(data: Dataset, spec: Mapping[str, Any]) -> Sizes:
    """Those of a spec's fields, stored ones too, of which older runs lack some."""
    train_size, val_size = spec.get("train_size"), spec.get("val_size")
    if spec.get("val_from", "test") == "test":
        return Sizes(train_size or data.train_size, val_size or data.val_size)
    held_out = val_size or count_held_out(data)
    return Sizes(train_size or data.train_size - held_out, held_out)


def count_held_out(data: Dataset) -> int:
    """How many of the training images are kept for validation where nobody says how many."""
    return max(1, data.train_size // HELD_OUT)
