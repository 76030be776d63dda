"""Training against the homework's own loop, interleaved in one process.

    python -m benchmarks.training [--part step|evaluation|pair|seeds|tracking] [--models lenet,resnet8] [--threads 1]

Needs MNIST in TRAINYARD_DATASETS. Every figure is a ratio of two loops that took turns, round by round, so that a busy
machine slows both; with how many rounds, the lowest and the highest. With one thread the time is the process's CPU
time, which neighbours do not lengthen; with several it is the clock's. "exact" is fp32 with the homework's bits, "auto"
is what a run gets that asks for nothing.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import pair, tracking
from benchmarks.homework import Homework
from benchmarks.table import heading, row
from ml.data import Split, load_dataset
from ml.evaluation import evaluate
from ml.events import Evaluated, Points
from ml.setup import pick_device, prepare
from ml.spec import RunSpec
from ml.train import train

BATCH = 64
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "batch_size": BATCH}
STEPS = {"lenet": 120, "alexnet": 16, "resnet8": 24, "resnet18": 4}  # of one turn: about a second
GOALS = {"lenet": ">= 1.3", "alexnet": ">= 1.9", "resnet8": ">= 1.8", "resnet18": ">= 2"}
EXACT: dict[str, Any] = {"precision": "fp32"}
PARTS = ("step", "evaluation", "pair", "seeds", "tracking")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--models", default=",".join(STEPS))
    parser.add_argument(
        "--threads", type=int, default=1, help="1 is what a run gets on two cores with two slots"
    )
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = load_dataset("mnist", Path(os.environ.get("TRAINYARD_DATASETS", "datasets")))
    models = args.models.split(",")
    parts: dict[str, Callable[[], None]] = {
        "step": lambda: compare_steps(models, data, args.rounds),
        "evaluation": lambda: compare_evaluations(models, data, args.rounds),
        "pair": lambda: pair.compare(models, args.rounds),
        "seeds": lambda: compare_seeds(models, data),
        "tracking": lambda: tracking.measure(args.rounds, train_size=6_400),
    }
    for name in args.part or PARTS:
        parts[name]()


def compare_steps(models: list[str], data: Split, rounds: int) -> None:
    heading(
        f"A training step at batch {BATCH}, {torch.get_num_threads()} threads: images a second and ratios"
    )
    for model in models:
        with open(os.devnull, "w") as out:
            spec = spec_of(model)
            loops = {
                "homework": Homework(spec, data, out).train(),
                "exact": trained(spec.model_copy(update=EXACT), data),
                "auto": trained(spec, data),
            }
            rates: dict[str, list[float]] = {name: [] for name in loops}
            for number in range(rounds + 1):
                for name, loop in loops.items():
                    rate = images_per_s(loop, STEPS[model])
                    if number:  # the first round warms up
                        rates[name].append(rate)
            for loop in loops.values():
                loop.close()  # type: ignore[attr-defined]
        row(f"{model}: the homework's loop", rates["homework"], "/s")
        for name in ("exact", "auto"):
            goal = GOALS.get(model, "") if name == ("exact" if model == "lenet" else "auto") else ""
            ratios = [a / b for a, b in zip(rates[name], rates["homework"], strict=True)]
            row(f"{model}: {name}", ratios, "x", goal)


def compare_evaluations(models: list[str], data: Split, rounds: int) -> None:
    heading(f"Evaluation of {len(data.val_images):,} images, {torch.get_num_threads()} threads")
    for model in models:
        few = max(1, rounds // 3) if model == "resnet18" else rounds
        theirs = Homework(spec_of(model), data, io.StringIO())
        took: dict[str, list[float]] = {"homework": [], "exact": [], "auto": []}
        runs = {
            "exact": prepare(spec_of(model).model_copy(update=EXACT), data, torch.device("cpu")),
            "auto": prepare(spec_of(model), data, torch.device("cpu")),
        }
        for number in range(few + 1):
            took_now = {"homework": seconds(theirs.evaluate)}
            for name, run in runs.items():
                took_now[name] = seconds(partial(deque, evaluate(run), 0))
            for name, value in took_now.items():
                if number:
                    took[name].append(value)
        row(f"{model}: the homework's loop", took["homework"], "s")
        for name in runs:
            row(
                f"{model}: {name}",
                [a / b for a, b in zip(took["homework"], took[name], strict=True)],
                "x",
                ">= 3",
            )


def compare_seeds(models: list[str], data: Split, seeds: int = 3) -> None:
    """Loss curves of bf16 and fp32: their difference, and that between seeds."""
    heading("bf16 against fp32 over 3 seeds: mean training loss of the last half, validation accuracy")
    for model in (name for name in models if name in RECIPES):
        ends: dict[str, list[tuple[float, float]]] = {"fp32": [], "bf16": []}
        for seed in range(seeds):
            for precision, found in ends.items():
                spec = spec_of(
                    model, seed=seed, precision=precision, train_size=3_000, val_size=2_000, epochs=2
                )
                found.append(curve(spec.model_copy(update=RECIPES[model]), data))
        for precision, found in ends.items():
            row(f"{model} {precision}: loss", [loss for loss, _ in found], "")
            row(f"{model} {precision}: accuracy", [accuracy * 100 for _, accuracy in found], "%")


# What learns within two epochs of 3,000 images (ml/catalog.py, recipes).
RECIPES: dict[str, dict[str, Any]] = {
    "alexnet": {"optimizer": "adamw", "lr": 0.001, "schedule": "onecycle"},
    "resnet8": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"},
}


def curve(spec: RunSpec, data: Split) -> tuple[float, float]:
    """Mean training loss over the last half of the steps, and the last validation accuracy."""
    losses: list[float] = []
    accuracy = 0.0
    for event in train(spec, data, device=torch.device("cpu")):
        if isinstance(event, Points):
            losses += event.values["train/loss"]
        elif isinstance(event, Evaluated):
            accuracy = event.accuracy
    return statistics.fmean(losses[len(losses) // 2 :]), accuracy


def spec_of(model: str, **fields: Any) -> RunSpec:
    return RunSpec(**{"model": model, "dataset": "mnist", "epochs": 100, **SGD, **fields})


def trained(spec: RunSpec, data: Split) -> Iterator[int]:
    """`ml.train` as a trainer drives it, ten reports a second; yields the images of each."""
    for event in train(spec, data, device=pick_device(spec.device)):
        if isinstance(event, Points):
            yield len(event.step) * spec.batch_size


def images_per_s(loop: Iterator[int], steps: int) -> float:
    images, began = 0, clock()
    while images < steps * BATCH:
        images += next(loop)
    return images / (clock() - began)


def seconds(work: Callable[[], object]) -> float:
    began = clock()
    work()
    return clock() - began


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


if __name__ == "__main__":
    main()
