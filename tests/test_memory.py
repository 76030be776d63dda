"""When memory runs out: what was asked, what was free, and a batch size that then trains."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import weakref
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
import json, re, resource, sys
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
        ValueError("out of memory: tried to allocate 1 MiB"),
        MemoryError(),
        torch.AcceleratorError(
            "CUDA error: out of memory"
        ),  # others have filled the GPU: the next may have more luck
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


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Allocation was preemptively rejected because it would exceed "
                "per_process_memory_fraction limit. Requested size: 12.00 MiB. GPU 0 has ..."
            ),
            12 * 2.0**20,
        ),
        (RuntimeError("CUDA ran out of memory outside PyTorch's allocator. If this workload uses ..."), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), None),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than 1EB memory."), None),
        (RuntimeError("C10 Out of Memory. Trying to allocate 640 bytes"), 640.0),
    ],
)
def test_a_shortage_is_told_whether_or_not_it_names_an_amount(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError, asked: float | None
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2.0 * 2**30)
    assert memory.read_asked(error) == asked
    found = str(explain(error, spec_of(batch_size=128), digits(), torch.device("cuda", 1)))
    free = "2.0 GiB are free for this run (GPU 1). Try batch size 64, or a smaller model."
    assert found.startswith("Out of memory at batch size 128: ")
    assert found.endswith(free)
    assert ("more were asked for" in found) == (asked is not None)


def test_a_shortage_is_found_behind_the_error_that_came_of_it() -> None:
    """As within the recording of a CUDA graph, whose end is an error too then."""

    def record() -> None:
        try:
            raise torch.OutOfMemoryError(CUDA_SAYS)
        finally:
            raise torch.AcceleratorError(
                "CUDA error: operation failed due to a previous error during capture"
            )

    with pytest.raises(torch.AcceleratorError) as raised:
        record()
    assert "2.5 GiB more were asked for" in str(explain(raised.value, spec_of(), digits(), CPU))


def test_what_the_training_held_is_let_go_of_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cycle, as modules and graphs are."""
    held: list[weakref.ref[torch.Tensor]] = []

    def train() -> None:
        activations = torch.zeros(8)
        cycle: list[object] = [activations]
        cycle.append(cycle)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError(CUDA_SAYS)

    alive: list[bool] = []

    def look(_device: torch.device) -> float:
        alive.append(held[0]() is not None)
        return 1e9

    monkeypatch.setattr(memory, "free_bytes", look)
    try:
        train()
    except RuntimeError as error:
        explain(error, spec_of(), digits(), CPU)
    assert alive == [False]


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


def test_devices_share_the_batch_that_is_suggested() -> None:
    spec = spec_of(model="resnet8", batch_size=512, devices=4)
    fixed, per_image = count_bytes(spec, digits())
    assert fixed > need()[0]  # the gradients of all are averaged in memory of their own
    for each, batch in ((1, 4), (2, 8), (16, 64), (200, 256), (0, 0)):
        free = (fixed + per_image * memory.OVERHEAD * each * 1.01) / memory.USABLE
        assert suggest_batch(spec, digits(), free) == batch
    three = spec.model_copy(update={"devices": 3})
    assert suggest_batch(three, digits(), (fixed + per_image * memory.OVERHEAD * 1.01) / memory.USABLE) == 3
    assert suggest_batch(three, digits(), math.inf) == 256


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
