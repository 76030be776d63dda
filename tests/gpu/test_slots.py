"""Two slots on one GPU: a worker trains two runs there at the same time, each to its own bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.events import Points
from ml.spec import RunSpec
from ml.train import train
from tests.test_train import digits
from tests.test_worker import Yard, a_yard

pytestmark = pytest.mark.slow

COMPARED = 100  # steps
ENDLESS: dict[str, Any] = {
    "dataset": "digits",
    "model": "resnet8",
    "train_size": 512,
    "val_size": 50,
    "epochs": 5_000,
    "lr": 0.01,
    "momentum": 0.9,
}


def both_train(yard: Yard, ids: list[str]) -> bool:
    found = [yard.get(run_id) for run_id in ids]
    return all(one["state"] == "running" and one["step"] >= COMPARED for one in found)


def plain_losses(spec: dict[str, Any], device: torch.device) -> list[float]:
    """Of the first COMPARED steps, trained here, alone."""
    losses: list[float] = []
    for event in train(RunSpec(**spec), digits(), device=device):
        if isinstance(event, Points):
            losses += event.values["train/loss"]
        if len(losses) >= COMPARED:
            break
    return losses[:COMPARED]


def test_two_runs_share_a_gpu(device: torch.device, tmp_path: Path) -> None:
    specs = [{**ENDLESS, "device": device.type, "seed": seed} for seed in (0, 1)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    with a_yard(tmp_path) as yard:
        yard.env["CUDA_VISIBLE_DEVICES"] = visible
        yard.add_worker(slots=2)
        ids = [yard.submit(**spec) for spec in specs]
        yard.wait(ids[0], lambda _: both_train(yard, ids))
        for run_id in ids:
            yard.ask(run_id, "cancel")
        for run_id, spec in zip(ids, specs, strict=True):
            assert yard.wait_state(run_id, "canceled", "failed")["state"] == "canceled"
            assert yard.get(run_id)["resolved"]["device"] == str(device)
            steps, losses = yard.series(run_id)
            assert steps[:COMPARED] == list(range(1, COMPARED + 1))
            assert losses[:COMPARED] == plain_losses(spec, device)
