"""What learns well: settings for each model on each data set, and how well they learnt where that was measured.

Imports no torch, so that the form can fill them in. A model's own settings are in `ml.catalog` (`Model.recipe`); here
is what a data set adds to them. The figures are from benchmarks/recipes.py: accuracy on all validation images after
the last epoch, seconds of CPU of the whole run with one thread, on the CPU that docs/training.md names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml.catalog import DATASETS, MODELS


@dataclass(frozen=True)
class Outcome:
    """Percent of the validation images at the end: the mean of so many seeds, and their standard deviation (0 for one
    seed); median seconds of CPU of a run."""

    accuracy: float
    deviation: float
    seeds: int
    cpu_s: int


@dataclass(frozen=True)
class Recipe:
    """Spec fields, `model_options` among them; `outcome` is None where it was not measured."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None


# Large batches with a high rate, and momentum that looks ahead: what trains the paper's small residual nets fastest.
FAST: dict[str, Any] = {"batch_size": 128, "lr": 0.2, "nesterov": True, "shift": 2}

MEASURED: dict[tuple[str, str], Recipe] = {
    ("lenet", "mnist"): Recipe({"epochs": 10, "shift": 1}, Outcome(99.35, 0.06, 3, 57)),
    ("mlp", "mnist"): Recipe({"epochs": 10}, Outcome(98.50, 0.05, 3, 36)),
    ("alexnet", "mnist"): Recipe({"epochs": 3}, Outcome(99.42, 0.05, 3, 126)),
    ("alexnet224", "mnist"): Recipe({"epochs": 1}, Outcome(99.29, 0, 1, 1640)),
    ("resnet8", "mnist"): Recipe({"epochs": 10, **FAST}, Outcome(99.57, 0.06, 3, 382)),
    ("resnet20", "mnist"): Recipe({"epochs": 5, **FAST}, Outcome(99.61, 0.02, 3, 482)),
    ("resnet56", "mnist"): Recipe({"epochs": 3, **FAST}, Outcome(99.48, 0.08, 2, 849)),
    ("resnet18", "mnist"): Recipe({"epochs": 1}, Outcome(99.27, 0.16, 2, 897)),
    ("resnet34", "mnist"): Recipe({"epochs": 1, "shift": 2}, Outcome(99.44, 0, 1, 1783)),
    ("resnet50", "mnist"): Recipe({"epochs": 1, "shift": 2}, Outcome(99.04, 0, 1, 2498)),
    ("resnet18-pretrained", "mnist"): Recipe({"epochs": 1}),
    # Augmentation gains small nets nothing here in ten epochs: mirrored, LeNet ended at 89.7, moved as well at 89.2.
    ("lenet", "fashion-mnist"): Recipe({"epochs": 10}, Outcome(90.26, 0.23, 3, 66)),
    ("mlp", "fashion-mnist"): Recipe({"epochs": 10}, Outcome(89.96, 0.18, 3, 30)),
    ("alexnet", "fashion-mnist"): Recipe({"epochs": 10, "flip": True}, Outcome(91.95, 0.21, 3, 420)),
    ("resnet8", "fashion-mnist"): Recipe({"epochs": 10, **FAST, "flip": True}, Outcome(92.11, 0.02, 3, 352)),
    ("resnet20", "fashion-mnist"): Recipe({"epochs": 10, **FAST, "flip": True}, Outcome(93.46, 0.03, 2, 944)),
    ("lenet", "digits"): Recipe({"epochs": 30, "shift": 2}, Outcome(99.72, 0.28, 3, 5)),
    ("mlp", "digits"): Recipe({"epochs": 20}, Outcome(98.33, 0.28, 3, 2)),
    ("alexnet", "digits"): Recipe({"epochs": 20}, Outcome(99.44, 0.28, 3, 22)),
    ("alexnet224", "digits"): Recipe({"epochs": 10}, Outcome(99.26, 0.32, 3, 412)),
    ("resnet8", "digits"): Recipe({"epochs": 20, "shift": 1}, Outcome(99.72, 0.00, 3, 19)),
    ("resnet20", "digits"): Recipe({"epochs": 20}, Outcome(99.54, 0.32, 3, 50)),
    ("resnet56", "digits"): Recipe({"epochs": 20}, Outcome(99.35, 0.42, 3, 134)),
    ("resnet18", "digits"): Recipe({"epochs": 10}, Outcome(98.89, 0.28, 3, 226)),
    ("resnet34", "digits"): Recipe({"epochs": 10}, Outcome(98.80, 0.16, 3, 462)),
    ("resnet50", "digits"): Recipe({"epochs": 10}, Outcome(96.94, 1.00, 3, 646)),
    ("resnet18-pretrained", "digits"): Recipe({"epochs": 5}),
}

# Not measured: KMNIST and CIFAR-10 could not be had where the figures were made. Both that look like MNIST are harder,
# and clothes may be mirrored; CIFAR-10 gets the augmentation of its paper, mirrored and moved by four pixels (He et al.
# 2016, section 4.2), and longer.
ALIKE: dict[str, Mapping[str, Any]] = {
    "kmnist": {"epochs": 10},
    "fashion-mnist": {"flip": True, "epochs": 10},
    "cifar10": {"flip": True, "shift": 4, "epochs": 30},
}
FEW = 10_000  # training images of a registered set, below which it is learnt in as many epochs as the digits


def find_recipe(model: str, dataset: str) -> Recipe:
    """The recipe of a model of the catalog on any known data set."""
    own = MODELS[model].recipe
    if (model, dataset) in MEASURED:
        found = MEASURED[model, dataset]
        return Recipe({**own, **found.fields}, found.outcome)
    if dataset in ALIKE:
        return Recipe({**own, **MEASURED[model, "mnist"].fields, **ALIKE[dataset]})
    return Recipe({**own, "epochs": 20 if DATASETS[dataset].train_size < FEW else 5})
