"""Trainings of the bundled digits on a device, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ml.events import Evaluated, Event, Snapshot
from ml.spec import RunSpec
from ml.train import train
from tests.asking import AskAt
from tests.test_train import digits, series, spec_of, weights_of

# 100 images in batches of 16: six full ones an epoch and one of 4, which a graph leaves to the eager step.
SMALL: dict[str, Any] = {
    "train_size": 100,
    "val_size": 40,
    "batch_size": 16,
    "epochs": 2,
    "schedule": "cosine",
}
STEPS = 14


@dataclass(frozen=True)
class Trained:
    """All events of a training, and its snapshots in their order."""

    events: list[Event]
    snapshots: list[dict[str, Any]]

    @property
    def losses(self) -> dict[int, float]:
        return series(self.events, "train/loss")

    @property
    def evaluations(self) -> list[tuple[float, float]]:
        return [(e.loss, e.accuracy) for e in self.events if isinstance(e, Evaluated)]


def small(model: str, **fields: Any) -> RunSpec:
    return spec_of(**{"model": model, **SMALL, **fields})


def run(
    spec: RunSpec,
    device: torch.device,
    resume: Mapping[str, Any] | None = None,
    ask_at: int = 0,
    report_every_s: float = 0.0,
) -> Trained:
    """Train to the end; a snapshot is asked for after step `ask_at`."""
    stream = train(
        spec,
        digits(),
        device=device,
        resume=resume,
        weights=weights_of(spec),
        snapshot_requested=AskAt(ask_at),
        report_every_s=report_every_s,
    )
    events = list(stream)
    return Trained(events, [event.state for event in events if isinstance(event, Snapshot)])
