"""Every generator goes on where a checkpoint left it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ml import checkpoint
from ml.generators import put_states, seed_generators, take_states

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _left_as_they_were() -> Iterator[None]:
    states = take_states(CPU)
    yield
    put_states(states, CPU)


def draw() -> list[float]:
    """From each generator, a normal draw too: Python and numpy keep the second of a pair."""
    numbers = [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn())]
    return [*numbers, float(torch.rand(())), float(torch.randn(()))]


def test_a_seed_decides_every_draw() -> None:
    seed_generators(3)
    first = draw()
    seed_generators(3)
    assert draw() == first
    seed_generators(4)
    assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_draws_go_on_after_a_checkpoint_was_written_and_read(tmp_path: Path) -> None:
    seed_generators(1)
    draw()
    digest = checkpoint.save(tmp_path / "a.pt", take_states(CPU))
    wanted = [draw(), draw()]
    seed_generators(2)
    put_states(checkpoint.load(tmp_path / "a.pt", digest), CPU)
    assert [draw(), draw()] == wanted


def test_a_checkpoint_from_before_has_torch_alone() -> None:
    seed_generators(1)
    old = {"rng": torch.get_rng_state(), "rng_cuda": None}
    wanted = float(torch.rand(()))
    put_states(old, CPU)
    assert float(torch.rand(())) == wanted
