"""The zoo's own max-pooling against PyTorch's, bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ml.models.pooling import MaxPool2d

NAN, INF = float("nan"), float("inf")


def images(shape: tuple[int, ...], kind: str) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    match kind:
        case "ties":  # as ReLU and saturated sigmoids make them
            return (x * 2).round().relu()
        case "nan":
            x[0, 0, 0, 0], x[1, 1, 2:4, 2:4], x[1, 2] = NAN, NAN, -INF
        case "infinite":
            x[0, 0, 1, 0], x[1, 1, 2, 3], x[1, 2] = INF, INF, -INF
    return x


def bits(x: Tensor) -> Tensor:
    """So that NaN equals NaN; all NaNs are made the same, and both zeros."""
    return torch.where(x.isnan(), NAN, x + 0.0).view(torch.int32)


@pytest.mark.parametrize("kind", ["plain", "ties", "nan", "infinite"])
@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (5, 16, 8, 8), (2, 3, 7, 9)])
def test_values_and_gradients_are_pytorchs(shape: tuple[int, ...], kind: str) -> None:
    mine, theirs = (images(shape, kind).requires_grad_() for _ in range(2))
    found, wanted = MaxPool2d()(mine), F.max_pool2d(theirs, 2)
    torch.testing.assert_close(bits(found), bits(wanted), rtol=0, atol=0)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
    found.backward(upstream)
    wanted.backward(upstream)  # type: ignore[no-untyped-call]
    assert mine.grad is not None
    assert theirs.grad is not None
    assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("kind", ["plain", "ties", "nan", "infinite"])
@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (2, 3, 7, 9)])
def test_without_gradients_the_values_are_the_same(shape: tuple[int, ...], kind: str) -> None:
    x = images(shape, kind)
    with torch.inference_mode():
        found = MaxPool2d()(x)
    assert found.shape == F.max_pool2d(x, 2).shape
    assert torch.equal(bits(found), bits(F.max_pool2d(x, 2)))


@pytest.mark.parametrize("change", ["bf16", "channels last", "meta"])
def test_what_the_other_kernels_do_not_do_is_left_to_pytorch(change: str) -> None:
    x = images((2, 3, 6, 6), "plain")
    match change:
        case "bf16":
            x = x.bfloat16()
        case "channels last":
            x = x.to(memory_format=torch.channels_last)
        case "meta":
            assert MaxPool2d()(x.to("meta")).shape == (2, 3, 3, 3)
            return
    found = MaxPool2d()(x.requires_grad_())
    assert torch.equal(found, F.max_pool2d(x, 2))
    assert found.dtype == x.dtype
    assert type(found.grad_fn).__name__ == "MaxPool2DWithIndicesBackward0"


def test_training_takes_the_faster_kernel() -> None:
    x = images((2, 3, 6, 6), "plain").requires_grad_()
    assert type(MaxPool2d()(x).grad_fn).__name__ == "ToDenseBackward0"
