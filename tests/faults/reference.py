"""What a run must look like: the same spec trained here, by `ml.train` alone and undisturbed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ml.data import Split, load_dataset
from ml.events import Evaluated, Points, Snapshot
from ml.spec import RunSpec
from ml.train import train


@dataclass
class Reference:
    """Points by metric and step, and the state at the end when it was trained so far."""

    last_step: int = 0
    points: dict[str, dict[int, float]] = field(default_factory=dict)
    final_state: dict[str, Any] | None = None

    def add(self, step: int, **values: float) -> None:
        for metric, value in values.items():
            self.points.setdefault(metric.replace("_", "/"), {})[step] = value


_known: dict[tuple[str, int], Reference] = {}


def reference(spec: RunSpec, threads: int, last_step: int) -> Reference:
    """The undisturbed run up to `last_step` at least, with that number of threads: it shapes the bits.

    Computed once for a spec, and again from its start when more of it is asked for.
    """
    key = (spec.model_dump_json(), threads)
    known = _known.get(key)
    if known is None or known.last_step < last_step:
        known = _known[key] = _compute(spec, threads, last_step)
    return known


def _compute(spec: RunSpec, threads: int, last_step: int) -> Reference:
    found = Reference(last_step)
    with _threads(threads):
        for event in train(spec, load(spec.dataset), device=torch.device("cpu")):
            if isinstance(event, Points):
                for metric, values in event.values.items():
                    found.points.setdefault(metric, {}).update(zip(event.step, values, strict=True))
            elif isinstance(event, Evaluated):
                found.add(event.step, val_loss=event.loss, val_accuracy=event.accuracy)
            elif isinstance(event, Snapshot) and event.step >= last_step:
                if event.step == spec.total_steps:
                    found.final_state = event.state
                break
    return found


@cache
def load(dataset: str) -> Split:
    return load_dataset(dataset, Path("unused"))  # digits need no files


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
