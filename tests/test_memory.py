"""When memory runs out: what was asked, what was free, and a batch size that then trains."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
import torch

from ml import memory
from ml.memory import OutOfMemory, count_bytes, explain, free_bytes, suggest_batch
from ml.spec import RunSpec
from tests.test_train import CPU, digits, spec_of

# A process that may have so much more memory than torch itself takes; it trains, and says how that went.
CHILD = """
import json, re, resource, sys, traceback
from pathlib import Path
import torch
from ml.data import load_dataset
from ml.memory import explain
from ml.spec import RunSpec
from ml.train import train

torch.set_num_threads(1)
spec, device = RunSpec(**json.loads(sys.argv[1])), torch.device("cpu")
data = load_dataset("digits", Path("nowhere"))
warm_up = RunSpec(**json.loads(sys.argv[1]) | {"batch_size": 2, "train_size": 4})
list(train(warm_up, data, device=device))  # loads all code
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
try:
    list(train(spec, data, device=device))
    print("trained")
except RuntimeError as error:
    traceback.clear_frames(error.__traceback__)
    print(explain(error, spec, data, device))
"""
LARGE = {
    "model": "resnet8",
    "dataset": "digits",
    "batch_size": 1024,
    "val_size": 8,
    "epochs": 1,
    "precision": "fp32",
}


def train_within(mb: int, **fields: object) -> str:
    given = [sys.executable, "-c", CHILD, json.dumps(LARGE | fields), str(mb)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are Linux's")
def test_a_training_that_runs_out_of_memory_names_a_batch_size_that_does_not() -> None:
    told = train_within(400)
    assert told.startswith("Out of memory at batch size 1024: "), told
    assert "MiB more were asked for, and " in told
    assert "are free for this run (CPU). Try batch size " in told
    batch = int(told.split("Try batch size ")[1].split(",")[0])
    assert 32 <= batch < 1024
    assert train_within(400, batch_size=batch) == "trained"


CUDA_SAYS = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 23.65 GiB "
    "of which 1.12 GiB is free."
)


def test_other_errors_are_left_alone() -> None:
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("tried to allocate 1 MiB"),
        MemoryError(),
    ):
        assert explain(error, RunSpec(), digits(), CPU) is None


def test_what_cuda_says_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2.0 * 2**30)
    found = explain(
        torch.OutOfMemoryError(CUDA_SAYS), spec_of(batch_size=128), digits(), torch.device("cuda", 1)
    )
    assert isinstance(found, OutOfMemory)
    assert str(found) == (
        "Out of memory at batch size 128: 2.5 GiB more were asked for, and 2.0 GiB are free for this run (GPU 1). "
        "Try batch size 64, or a smaller model."
    )


@cache
def need() -> tuple[float, float]:
    return count_bytes(spec_of(model="resnet8"), digits())


def test_the_suggestion_grows_with_what_is_free() -> None:
    fixed, per_image = need()
    spec = spec_of(model="resnet8", batch_size=512)
    for wanted in (1, 2, 64, 256):
        free = (fixed + per_image * memory.OVERHEAD * wanted * 1.01) / memory.USABLE
        assert suggest_batch(spec, digits(), free) == wanted
    assert suggest_batch(spec, digits(), 1e15) == 256  # below the one that failed
    assert suggest_batch(spec, digits(), fixed) == 0


def test_a_model_that_fits_in_no_batch_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000.0)
    asked = RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 419430400000 bytes."
    )
    found = explain(asked, spec_of(), digits(), CPU)
    assert "390.6 GiB more were asked for, and 1000 bytes are free" in str(found)
    assert str(found).endswith(
        "Not even a batch of one image fits: choose a smaller model or another machine."
    )


def test_resident_images_count() -> None:
    data = digits()
    twice = replace(data, train_images=torch.cat([data.train_images] * 2))
    spec = spec_of(model="resnet8")
    assert count_bytes(spec, twice)[0] - count_bytes(spec, data)[0] == data.train_images.nbytes


def test_some_memory_is_free() -> None:
    assert 2**20 < free_bytes(CPU) < 2**50
