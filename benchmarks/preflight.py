"""What the pre-flight says of a run against what the run took: `python -m benchmarks.preflight`.

Needs MNIST in TRAINYARD_DATASETS. Each run is a process of its own, one thread, two epochs; the second, with its
evaluation, is the time that counts. Memory is the process's peak. The figures are estimate over truth: 1 is right.
The speed that the estimate rests on is measured anew beside each run, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from app.estimate import Pace, Slot, estimate_epoch, estimate_memory
from app.settings import get_settings
from benchmarks.table import heading, row
from ml.catalog import DATASETS, MODELS
from ml.spec import RunSpec
from worker.capacity import count_host_memory, multiplies_bf16
from worker.environment import trainer_environment

CASES: dict[str, dict[str, Any]] = {
    "lenet": {"train_size": 20_000, "val_size": 5_000},
    "mlp": {"train_size": 20_000, "val_size": 5_000, "optimizer": "adamw"},
    "alexnet": {"train_size": 3_000, "val_size": 1_000, "optimizer": "adamw"},
    "resnet8": {"train_size": 3_000, "val_size": 1_000, "momentum": 0.9},
    "resnet20": {"train_size": 1_500, "val_size": 500, "momentum": 0.9},
    "resnet18": {"train_size": 256, "val_size": 128, "momentum": 0.9},
    "resnet50": {"train_size": 128, "val_size": 64, "momentum": 0.9},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--child", help="a spec as JSON (used by itself)")
    args = parser.parse_args()
    if args.child:
        run(RunSpec.model_validate_json(args.child))
        return
    heading(f"Pre-flight over truth, batch {args.batch_size}, one thread, MNIST")
    for model in args.models:
        spec = RunSpec(
            model=model, dataset="mnist", epochs=2, batch_size=args.batch_size, device="cpu", **CASES[model]
        )
        found = [compare(spec) for _ in range(args.rounds)]
        row(f"{model}: seconds of an epoch", [one["epoch_s"] for one in found], "s")
        row(f"{model}: estimated time / taken", [one["time"] for one in found], "x", "0.5 to 2")
        row(f"{model}: peak memory", [one["peak"] / 1e6 for one in found], "MB")
        row(f"{model}: estimated memory / peak", [one["memory"] for one in found], "x", "1 to 1.5")


def compare(spec: RunSpec) -> dict[str, float]:
    pace, bf16 = Pace(**json.loads(ask("worker.pace"))), multiplies_bf16()
    slot = Slot("here", "here", "cpu", count_host_memory(), 1, 1, pace, bf16=bf16)
    told = json.loads(ask("benchmarks.preflight", "--child", spec.model_dump_json()))
    memory = estimate_memory(spec, told["anatomy"], "cpu", bf16).total
    seconds = estimate_epoch(spec, told["anatomy"], slot) or 0.0
    return {
        "epoch_s": told["epoch_s"],
        "peak": told["peak"],
        "time": seconds / told["epoch_s"],
        "memory": memory / told["peak"],
    }


def ask(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    env = trainer_environment(os.environ, 1)
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(spec: RunSpec) -> None:
    """Train as a trainer does, with all that it loads, and say what it took."""
    import torch

    import worker.trainer  # noqa: F401  # its memory counts
    from ml.anatomy import dissect
    from ml.data import load_dataset
    from ml.events import Snapshot
    from ml.train import train

    torch.set_num_threads(1)
    data = load_dataset(spec.dataset, get_settings().datasets_dir)
    marks = []
    for event in train(spec, data, device=torch.device("cpu")):
        if isinstance(event, Snapshot):
            marks.append(time.perf_counter())
    # Before the anatomy, which is not the run's.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    options = MODELS[spec.model].options.model_validate(spec.model_options)
    entry = DATASETS[spec.dataset]
    anatomy = asdict(dissect(spec.model, options, entry.shape, entry.classes))
    print(json.dumps({"epoch_s": marks[1] - marks[0], "peak": peak, "anatomy": anatomy}))


if __name__ == "__main__":
    main()
