"""What slots and threads are worth on a CPU: `python -m benchmarks.slots`. Needs MNIST in TRAINYARD_DATASETS.

Every case is as many trainings at once as it has runs, each a process of its own with its number of threads set before
torch starts, as a worker does it. They load first, then train for the same seconds; the figure is the images of all of
them a second. The cases of a round follow each other at once, so that their ratios hold on a shared machine too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.table import heading, row
from worker.environment import trainer_environment
from worker.slots import count_cores

MODELS = ("lenet", "resnet8")
SPEC: dict[str, Any] = {"train_size": 6_000, "val_size": 10, "epochs": 1_000, "lr": 0.05, "momentum": 0.9}
WARM_UP_S = 1.0


class Case(NamedTuple):
    title: str
    runs: int
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of training, a case")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument(
        "--child", nargs=2, metavar=("MODEL", "SECONDS"), help="one training (used by itself)"
    )
    args = parser.parse_args()
    if args.child:
        train_for(args.child[0], float(args.child[1]))
        return
    cores = count_cores()
    cases = (
        Case(f"1 slot: one run, {cores} threads", 1, cores),
        Case(f"2 slots: two runs, {max(1, cores // 2)} threads each", 2, max(1, cores // 2)),
        Case(f"torch's default: two runs, {cores} threads each", 2, cores),
        Case("one run, one thread", 1, 1),
    )
    for model in args.models:
        rounds = [[measure(case, model, args.seconds) for case in cases] for _ in range(args.rounds)]
        heading(f"Slots, {model} at batch 64, {args.seconds:g} s a case")
        for i, case in enumerate(cases):
            row(f"{case.title}, all images", [one[i] for one in rounds], "/s")
        row("2 slots against torch's default", [one[1] / one[2] for one in rounds], "x", goal_of(model))
        row("2 slots against 1", [one[1] / one[0] for one in rounds], "x")


def goal_of(model: str) -> str:
    return {"lenet": ">= 3x", "resnet8": ">= 2x"}.get(model, "")


def measure(case: Case, model: str, seconds: float) -> float:
    """Images a second of all of its runs together."""
    command = [sys.executable, "-m", "benchmarks.slots", "--child", model, str(seconds)]
    children = [
        subprocess.Popen(
            command,
            env=trainer_environment(os.environ, case.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(case.runs)
    ]
    for child in children:
        read_line(child)  # it has loaded
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    rates = [float(read_line(child)) for child in children]
    for child in children:
        child.communicate()
    return sum(rates)


def read_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit("a training ended early; see above")
    return line


def train_for(model: str, seconds: float) -> None:
    """Say when the data are loaded, wait for the word, train, and print the images a second behind the warm-up."""
    import torch

    from ml.data import load_dataset
    from ml.events import Points
    from ml.spec import RunSpec
    from ml.train import train

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    data = load_dataset("mnist", Path(os.environ.get("TRAINYARD_DATASETS", "datasets")))
    options = {"activation": "relu"} if model == "lenet" else {}
    spec = RunSpec(model=model, dataset="mnist", model_options=options, **SPEC)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    first: tuple[float, int] | None = None
    for event in train(spec, data, device=torch.device("cpu")):
        if not isinstance(event, Points):
            continue
        at, step = time.perf_counter(), event.step[-1]
        if first is None and at - began > WARM_UP_S:
            first = at, step
        elif first is not None and at - began > WARM_UP_S + seconds:
            images = (
                (step - first[1]) * spec.images_per_epoch / spec.steps_per_epoch
            )  # the last batch of an epoch is smaller
            print(images / (at - first[0]), flush=True)
            return


if __name__ == "__main__":
    main()
