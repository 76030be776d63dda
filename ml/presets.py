"""Ready-made comparisons: several runs that differ in one thing, their model or what cures the homework's recipe.

Imports no torch, so that the web process and the client can offer them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ml.catalog import MODELS

# Measured on two CPU cores, two runs at a time with one thread each, seed 0, validation accuracy by epoch:
# MNIST, 76 s in all: LeNet 90.5 95.5 96.2 96.6 96.7; AlexNet 95.9 97.7 98.0 98.5 98.7;
# ResNet-8 91.9 95.8 97.5 97.6 97.9. Digits, 44 s in all: 97.8, 99.7 and 99.7 at the end.
DEMO: dict[str, Any] = {
    "batch_size": 64,
    "lr": 0.001,
    "optimizer": "adamw",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "seed": 0,
    "input_scaling": "standardize",
    "precision": "fp32",  # auto would give LeNet another one than the others
    "device": "auto",
}
DEMO_SIZES: dict[str, dict[str, Any]] = {
    "mnist": {"train_size": 10_000, "val_size": 2_000, "epochs": 5},
    "digits": {"train_size": None, "val_size": None, "epochs": 20},
}
HOMEWORK: dict[str, Any] = {
    "dataset": "mnist",
    "batch_size": 64,
    "lr": 0.01,
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "seed": 0,
    "input_scaling": "unit",  # what torchvision's ToTensor gives
    "precision": "fp32",  # as the homework's loop computes, for all three
    "device": "auto",
}


class NamedSpec(NamedTuple):
    """One run to submit: its name for people and the fields of its RunSpec."""

    name: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """A named set of runs; `specs` holds what RunSpec validates, one dictionary a run."""

    name: str
    title: str
    summary: str
    runs: tuple[NamedSpec, ...]

    @property
    def specs(self) -> tuple[dict[str, Any], ...]:
        return tuple(run.spec for run in self.runs)


def _compare(shared: dict[str, Any], models: dict[str, dict[str, Any]]) -> tuple[NamedSpec, ...]:
    """One run a model, named by the model's title, with every other field shared."""
    return tuple(
        NamedSpec(MODELS[model].title, {"model": model, **shared, "model_options": options})
        for model, options in models.items()
    )


def demo(dataset: str = "mnist", *, epochs: int | None = None, train_size: int | None = None) -> Preset:
    """Three models side by side in about a minute and a half on two CPU cores.

    `dataset` is "mnist", or "digits" where MNIST cannot be had. `epochs` and `train_size` replace the
    preset's own.

    Raises:
        ValueError: no demo is tuned for this data set.
    """
    if dataset not in DEMO_SIZES:
        raise ValueError(f"no demo for dataset {dataset!r}; choose one of {', '.join(DEMO_SIZES)}")
    sizes = DEMO_SIZES[dataset]
    shared = {
        "dataset": dataset,
        **DEMO,
        "train_size": sizes["train_size"] if train_size is None else train_size,
        "val_size": sizes["val_size"],
        "epochs": sizes["epochs"] if epochs is None else epochs,
    }
    return Preset(
        "demo",
        "Demo",
        "LeNet, AlexNet and ResNet-8 with the same data, batch size and learning rate, in about 90 seconds.",
        _compare(shared, {"lenet": {"activation": "relu"}, "alexnet": {}, "resnet8": {}}),
    )


def homework(*, epochs: int = 32, train_size: int | None = None, input_scaling: str = "unit") -> Preset:
    """The homework to the letter: LeNet with sigmoid, then AlexNet and ResNet-8 with its settings.

    `input_scaling` is "unit" as torchvision's ToTensor has it, "raw" for pixels as they come, or "standardize".

    All of MNIST, batches of 64, plain SGD at 0.01: nearly an hour on two CPU cores at 32 epochs (with one
    thread each, an epoch takes AlexNet about 95 s, ResNet-8 75 s, LeNet 7 s), so a form should let people
    lower `epochs` or `train_size` (None: all 60,000). LeNet stays at chance for epochs with it: that is the
    lesson.
    """
    sizes = {"train_size": train_size, "val_size": None, "epochs": epochs}
    shared = {**HOMEWORK, **sizes, "input_scaling": input_scaling}
    return Preset(
        "homework",
        "Homework",
        "LeNet with sigmoid, AlexNet and ResNet-8 on MNIST: batch size 64, learning rate 0.01, plain SGD.",
        _compare(shared, {"lenet": {}, "alexnet": {}, "resnet8": {}}),
    )


CURES: dict[str, dict[str, Any]] = {
    "As printed": {},
    "Xavier, lr 0.5": {"lr": 0.5, "model_options": {"init": "xavier"}},
    "ReLU": {"model_options": {"activation": "relu"}},
    "AdamW, lr 0.005": {"optimizer": "adamw", "lr": 0.005},
}


def cures(*, epochs: int = 6, train_size: int | None = None) -> Preset:
    """The homework's LeNet as printed, which stays at chance, beside three changes of which each lets it learn.

    What came of them, measured: docs/lessons/homework.md.
    """
    shared = {**HOMEWORK, "model": "lenet", "train_size": train_size, "val_size": None, "epochs": epochs}
    return Preset(
        "cures",
        "Homework, cured",
        "The homework's LeNet, which learns nothing as printed, and three changes of which each is enough.",
        tuple(NamedSpec(name, {**shared, **change}) for name, change in CURES.items()),
    )


PRESETS: dict[str, Callable[..., Preset]] = {"demo": demo, "homework": homework, "cures": cures}
