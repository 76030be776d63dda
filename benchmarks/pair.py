"""Two runs at once, each a process of its own: total images a second, and peak memory.

Started by `benchmarks.training --part pair`; `python -m benchmarks.pair KIND MODEL THREADS` is one of the two: it
says "ready", waits for a line, trains for SECONDS and prints its images and its peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.table import heading, row

SECONDS = 4.0
GOALS = {"lenet": ">= 3", "resnet8": ">= 2"}


class Way(NamedTuple):
    """How two runs are started: whose loop, and how many threads each gets (0: torch's default)."""

    title: str
    kind: str
    threads: int


DEFAULT = Way("the homework's loop twice, torch's threads", "homework", 0)
WAYS = (
    DEFAULT,
    Way("the homework's loop twice, 1 thread each", "homework", 1),
    Way("two runs, exact, 1 thread each", "exact", 1),
    Way("two runs, auto, 1 thread each", "auto", 1),
)


class Outcome(NamedTuple):
    images_per_s: float  # both together
    peak_mb: float  # of the larger


def compare(models: list[str], rounds: int) -> None:
    heading(f"Two runs at once, {SECONDS:.0f} s each: total images a second")
    for model in models:
        found: dict[Way, list[Outcome]] = {way: [] for way in WAYS}
        for _ in range(max(3, rounds // 2)):
            for way in WAYS:
                found[way].append(run_two(way, model))
        row(f"{model}: {DEFAULT.title}", [o.images_per_s for o in found[DEFAULT]], "/s")
        row(f"{model}: its peak memory", [o.peak_mb for o in found[DEFAULT]], "MB")
        for way in WAYS[1:]:
            pairs = zip(found[way], found[DEFAULT], strict=True)
            goal = GOALS.get(model, "") if way.kind == "auto" else ""
            row(f"{model}: {way.title}", [a.images_per_s / b.images_per_s for a, b in pairs], "x", goal)
            row(f"{model}: its peak memory", [o.peak_mb for o in found[way]], "MB")


def run_two(way: Way, model: str) -> Outcome:
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", "benchmarks.pair", way.kind, model, str(way.threads)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout is not None
        if one.stdout.readline() != "ready\n":
            raise RuntimeError(f"{' '.join(command)} ended before it was ready")
    for one in both:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    told = [json.loads(one.communicate()[0]) for one in both]
    return Outcome(sum(t["images_per_s"] for t in told), max(t["peak_mb"] for t in told))


def train_one(kind: str, model: str, threads: int) -> None:
    from benchmarks.homework import Homework
    from benchmarks.training import EXACT, spec_of, trained
    from ml.data import load_dataset

    if threads:
        torch.set_num_threads(threads)
    data = load_dataset("mnist", Path(os.environ.get("TRAINYARD_DATASETS", "datasets")))
    with open(os.devnull, "w") as out:
        loop: Iterator[int]
        if kind == "homework":
            loop = Homework(spec_of(model), data, out).train()
        else:
            spec = spec_of(model)
            loop = trained(spec.model_copy(update=EXACT) if kind == "exact" else spec, data)
        for _ in range(3):
            next(loop)
        print("ready", flush=True)
        sys.stdin.readline()
        images, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < SECONDS:
            images += next(loop)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"images_per_s": images / took, "peak_mb": peak_kib / 1024}))


if __name__ == "__main__":
    train_one(sys.argv[1], sys.argv[2], int(sys.argv[3]))
