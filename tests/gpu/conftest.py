"""Collected where `nvidia-smi` lists a GPU, and nowhere else: torch, which takes seconds to import, is not asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from worker.environment import trainer_environment
from worker.slots import list_gpus

if TYPE_CHECKING:
    import torch

GPUS = len(list_gpus())
collect_ignore_glob = [] if GPUS else ["test_*.py"]
if GPUS < 2:
    collect_ignore_glob.append("test_two_gpus.py")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU, with what a trainer finds in its environment: cuBLAS reads it when it is first used."""
    import torch

    assert torch.cuda.is_available(), "nvidia-smi lists a GPU and torch sees none: is it a build for the CPU?"
    name = "CUBLAS_WORKSPACE_CONFIG"
    os.environ[name] = trainer_environment({}, threads=1)[name]
    return torch.device("cuda", 0)
