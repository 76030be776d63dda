"""A GPU that is nearly full: the message says what was asked for, what is free, and a batch size that fits."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

import pytest
import torch

from ml.memory import explain
from ml.spec import RunSpec
from tests.gpu.training import run, small
from tests.test_train import SGD, digits

LEFT = 500 * 2**20


@pytest.fixture
def crowded(device: torch.device) -> Iterator[torch.device]:
    """The GPU with LEFT bytes free, once the libraries have the memory that they keep."""
    run(spec_with(64), device)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    assert free > 2 * LEFT, "others use this GPU"
    ballast = torch.empty(free - LEFT, dtype=torch.uint8, device=device)
    yield device
    del ballast
    torch.cuda.empty_cache()


def spec_with(batch: int) -> RunSpec:
    return small("resnet20", train_size=1437, batch_size=batch, epochs=1, precision="fp32", **SGD)


def train_within(spec: RunSpec, device: torch.device) -> str:
    """As a trainer does: its message, or "trained"."""
    try:
        run(spec, device)
    except RuntimeError as error:
        traceback.clear_frames(error.__traceback__)
        shortage = explain(error, spec, digits(), device)
        if shortage is None:
            raise
        return str(shortage)
    return "trained"


def test_out_of_memory_names_what_was_asked_what_is_free_and_what_fits(crowded: torch.device) -> None:
    told = train_within(spec_with(1437), crowded)
    pattern = (
        r"Out of memory at batch size 1437: [\d.]+ [KMG]iB more were asked for, and ([\d.]+) MiB are free "
        r"for this run \(GPU 0\)\. Try batch size (\d+), or a smaller model\."
    )
    found = re.fullmatch(pattern, told)
    assert found is not None, told
    assert float(found[1]) <= LEFT / 2**20 + 64
    assert 1 <= int(found[2]) < 1437
    assert train_within(spec_with(int(found[2])), crowded) == "trained"
