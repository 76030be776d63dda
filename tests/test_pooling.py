"""The zoo's own pooling against PyTorch's, bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.nn import functional as F

from ml.catalog import AlexNet224Options
from ml.models.alexnet224 import build
from ml.models.pooling import AdaptiveAvgPool2d, MaxPool2d, as_channels_last

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


# -- average pooling to a fixed size ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 3, 6, 7, 15])  # of the features of images of 64 to 512 pixels
def test_on_a_cpu_averages_and_gradients_are_pytorchs(side: int) -> None:
    mine, theirs = (images((2, 8, side, side), "plain").requires_grad_() for _ in range(2))
    found, wanted = AdaptiveAvgPool2d((6, 6))(mine), nn.AdaptiveAvgPool2d((6, 6))(theirs)
    assert torch.equal(found, wanted)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
    found.backward(upstream)
    wanted.backward(upstream)
    assert mine.grad is not None
    assert theirs.grad is not None
    assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("side", [1, 2, 6, 15])
def test_a_gpu_would_get_images_that_its_kernel_takes_as_channels_last(side: int, plain: bool) -> None:
    """By the rule that the kernel is chosen by (`suggest_memory_format`): no GPU has run it."""
    x = images((2, 256, side, side), "plain").requires_grad_()
    given = x if plain else x.contiguous(memory_format=torch.channels_last)
    found = as_channels_last(given)
    assert suggest_memory_format(found) is torch.channels_last
    assert torch.equal(found, x)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_alexnet_at_any_size_pools_with_it() -> None:
    net = build(AlexNet224Options(image_size=96), (1, 28, 28), 10)
    pools = [module for module in net.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    assert [type(module) for module in pools] == [AdaptiveAvgPool2d]
