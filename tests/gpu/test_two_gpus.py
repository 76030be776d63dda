"""Two GPUs: a run on both is the run on one, and a slot's GPU need not be the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from ml.crew import Crew
from ml.spec import RunSpec
from tests.bits import assert_same_bits
from tests.gpu.training import run, small
from tests.test_crew import (
    DRAWS,
    SPECS,
    assert_normalises,
    assert_resumed,
    assert_trains_alike,
    collect,
    read,
    work,
)
from tests.test_train import SGD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crew")
    spawn(work, (str(folder), {**SPECS, "draws": DRAWS}, "nccl"), nprocs=2)  # type: ignore[no-untyped-call]
    return folder


@pytest.mark.parametrize("name", SPECS)
def test_two_gpus_train_what_one_does(together: Path, device: torch.device, name: str) -> None:
    assert_trains_alike(read(together / f"{name}.pt"), collect(RunSpec(**SPECS[name]), Crew(), device), name)


@pytest.mark.parametrize("name", [*SPECS, "draws"])
def test_two_gpus_resume_to_the_very_bits(together: Path, name: str) -> None:
    assert_resumed(read(together / f"{name}.pt"), read(together / f"{name}.resumed.pt"))


def test_shared_batch_normalisation_is_that_of_the_whole_batch(together: Path) -> None:
    assert_normalises(together)


@pytest.mark.parametrize("fields", [{}, {"compile": "graph", "fused": "on"}], ids=["eager", "graph"])
def test_the_second_gpu_trains_as_the_first(fields: dict[str, Any]) -> None:
    """To the same bits where both are of one kind: neither streams nor graphs are those of another GPU."""
    names = [torch.cuda.get_device_name(index) for index in (0, 1)]
    spec = small("lenet", **SGD, **fields)
    one, other = (run(spec, torch.device("cuda", index)) for index in (0, 1))
    assert list(other.losses.values()) == pytest.approx(list(one.losses.values()), rel=1e-4)
    if names[0] == names[1]:
        assert_same_bits(other.snapshots[-1]["model"], one.snapshots[-1]["model"])
