"""How well each model learns with its own recipe, the one that the form fills in.

    python -m benchmarks.recipes [--model lenet resnet8] [--dataset mnist] [--seeds 3] [--set epochs=10 shift=2]
    python -m benchmarks.recipes --table    # what ml/recipes.py holds, as docs/training.md shows it

One run after the other with one thread each, as two slots on two cores train. Prints for each model the validation
accuracy at the end, over seeds, and the time of a run; and after which epoch 99 % was passed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from app.settings import get_settings
from app.web.forms import outcome_figure
from ml.catalog import DATASETS, MODELS
from ml.data import Split, load_dataset
from ml.events import Evaluated
from ml.recipes import MEASURED, find_recipe
from ml.spec import RunSpec
from ml.train import pick_device, train


class Trained(NamedTuple):
    """Percent by epoch; seconds of wall clock and of CPU for the whole run, and until 99 % (None: never)."""

    accuracies: list[float]
    took_s: float
    cpu_s: float
    to_99_s: float | None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["lenet", "mlp", "alexnet", "resnet8"], choices=MODELS)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="changes of the recipes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="measure nothing; print what was measured")
    args = parser.parse_args()
    if args.table:
        print(describe_outcomes())
        return
    torch.set_num_threads(args.threads)
    changes = dict(read_change(text) for text in args.set)
    data = load_dataset(args.dataset, Path(get_settings().datasets_dir))
    print(f"{args.dataset}, {args.threads} thread(s), n = {args.seeds} seeds\n")
    print(
        "| model | recipe | accuracy, mean ± std (each) | seconds of CPU | seconds to 99 % |\n|---|---|---|---|---|"
    )
    for model in args.model:
        fields = {**find_recipe(model, args.dataset).fields, **changes}
        runs = [measure(model, args.dataset, {**fields, "seed": seed}, data) for seed in range(args.seeds)]
        print(describe(model, fields, runs), flush=True)


def describe_outcomes() -> str:
    """Every measured recipe as a row of a table: what the data set adds to the model's own settings, and what came."""
    lines = ["| model | data | recipe | accuracy, mean ± std | CPU time |", "|---|---|---|---|---|"]
    for (model, dataset), recipe in MEASURED.items():
        if recipe.outcome is None:
            continue
        fields = ", ".join(f"{name} {json.dumps(value)}" for name, value in recipe.fields.items())
        named = f"{MODELS[model].title} | {DATASETS[dataset].title}"
        lines.append(
            f"| {named} | {fields} | {outcome_figure(recipe.outcome)} | {recipe.outcome.cpu_s:,} s |"
        )
    return "\n".join(lines)


def read_change(text: str) -> tuple[str, Any]:
    """`shift=2` as a field and its JSON value; a value that is no JSON is a word."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def measure(model: str, dataset: str, fields: dict[str, Any], data: Split) -> Trained:
    spec = RunSpec(model=model, dataset=dataset, **fields)
    began, cpu, passed, accuracies = time.perf_counter(), time.process_time(), None, []
    for event in train(spec, data, device=pick_device(spec.device, None)):
        if isinstance(event, Evaluated):
            accuracies.append(100 * event.accuracy)
            if passed is None and event.accuracy >= 0.99:
                passed = time.perf_counter() - began
    return Trained(accuracies, time.perf_counter() - began, time.process_time() - cpu, passed)


def describe(model: str, fields: dict[str, Any], runs: list[Trained]) -> str:
    ends = [run.accuracies[-1] for run in runs]
    spread = statistics.stdev(ends) if len(ends) > 1 else 0.0
    recipe = ", ".join(f"{name} {value}" for name, value in fields.items())
    reached = [run.to_99_s for run in runs if run.to_99_s is not None]
    return (
        f"| {MODELS[model].title} | {recipe} | {statistics.mean(ends):.2f} ± {spread:.2f} "
        f"({', '.join(f'{end:.2f}' for end in ends)}) | {statistics.median(run.cpu_s for run in runs):.0f} | "
        + (f"{statistics.median(reached):.0f} ({len(reached)} of {len(runs)})" if reached else "never")
        + " |"
    )


if __name__ == "__main__":
    main()
