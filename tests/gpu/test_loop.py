"""The loop on a GPU: the host never waits within an epoch, every number arrives, evaluation is that of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation import Verdict, evaluate
from ml.events import Points
from ml.generators import seed_generators
from ml.setup import prepare
from ml.spec import RunSpec
from ml.train import train
from ml.transfer import Copy
from tests.gpu.training import STEPS, run, small
from tests.test_train import ADAMW, SGD, digits

ALL: dict[str, Any] = {
    "shift": 2,
    "flip": True,
    "cutout": 8,
    "clip_norm": 1.0,
    "grad_norm": "layers",
    "label_smoothing": 0.1,
}


@contextmanager
def no_waiting() -> Iterator[None]:
    """An operation that makes the host wait for the GPU raises a RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def finish_epoch(spec: RunSpec, device: torch.device) -> list[int]:
    """The steps of the first epoch after the first, which the host hands over without waiting for the device."""
    stream = train(spec, digits(), device=device, report_every_s=1e9)
    first = next(event for event in stream if isinstance(event, Points))
    assert first.step == [1]  # lazy starts are behind us, and the epoch's order is on the device
    with no_waiting():
        points = next(stream)
    assert isinstance(points, Points)
    return points.step


# Said once by `set_sync_debug_mode`: that it does not see every way of waiting.
PROTOTYPE = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")


@PROTOTYPE
@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("name", ["lenet", "resnet8"])
@pytest.mark.parametrize("fields", [SGD, ADAMW, {**SGD, **ALL}], ids=["sgd", "adamw", "all"])
def test_no_step_waits_for_the_device(
    device: torch.device, name: str, ema: float, fields: dict[str, Any]
) -> None:
    assert finish_epoch(small(name, train_size=96, ema=ema, **fields), device) == [2, 3, 4, 5, 6]


@PROTOTYPE
def test_a_step_that_waits_would_be_seen(device: torch.device) -> None:
    """To leave out a step whose loss is no number, the host has to look at it."""
    with pytest.raises(RuntimeError, match="synchronizing"):
        finish_epoch(small("lenet", train_size=96, on_nan="continue"), device)


@pytest.mark.parametrize("compilation", ["off", "graph"])
def test_every_step_is_reported_once_and_in_order(device: torch.device, compilation: str) -> None:
    """However often reports are made: at each step, some, or once an epoch."""
    spec = small("lenet", compile=compilation, fused="on", **SGD)
    found = [run(spec, device, report_every_s=every_s) for every_s in (0.0, 0.001, 1e9)]
    for one in found:
        assert list(one.losses) == list(range(1, STEPS + 1))
        assert one.losses == found[0].losses


def test_a_copy_is_of_the_moment_and_says_when_it_is_there(device: torch.device) -> None:
    numbers = torch.arange(6.0, device=device).view(3, 2)
    torch.cuda._sleep(2_000_000_000)  # type: ignore[no-untyped-call]  # cycles: about a second of doing nothing
    copy = Copy(numbers)
    numbers.zero_()
    assert not copy.has_arrived()
    assert copy.read() == [[0, 1], [2, 3], [4, 5]]
    assert copy.has_arrived()


def judge(spec: RunSpec, device: torch.device, state: dict[str, Any]) -> Verdict:
    seed_generators(spec.seed)
    setup = prepare(spec, digits(), device)
    setup.model.load_state_dict(state["model"])
    if setup.averaged is not None:
        setup.averaged.load_state_dict(state["averaged"])
    *_, verdict = evaluate(setup)
    assert isinstance(verdict, Verdict)
    return verdict


@pytest.mark.parametrize(
    ("name", "ema"), [("lenet", 0.0), ("alexnet", 0.0), ("resnet8", 0.0), ("resnet8", 0.9)]
)
def test_evaluation_is_that_of_the_cpu(device: torch.device, name: str, ema: float) -> None:
    """Of all validation images: one batch there, several here."""
    spec = small(name, val_size=None, ema=ema, precision="fp32", **ADAMW)
    state = run(spec, device).snapshots[-1]
    there, here = judge(spec, device, state), judge(spec, torch.device("cpu"), state)
    assert there.loss == pytest.approx(here.loss, rel=1e-4)
    assert (there.predicted != here.predicted).mean() <= 0.01  # ties
    np.testing.assert_allclose(there.logits, here.logits, rtol=0.01, atol=0.01)  # kept in half precision
    np.testing.assert_allclose(there.confidence, here.confidence, atol=1e-3)
