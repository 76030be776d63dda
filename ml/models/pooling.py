"""Pooling by other kernels than those that PyTorch would choose: faster ones, and ones that repeat their bits.

B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaxPool2d(nn.MaxPool2d):
    """2x2 max-pooling with stride 2, with the values and gradients of `nn.MaxPool2d` to the last bit.

    PyTorch's own kernel for fp32 on a CPU goes pixel by pixel, as it notes where each maximum was: a fifth of LeNet's
    training step and half of its evaluation. oneDNN's notes it too, and the first of equals as well, in half the time;
    without gradients two elementwise maxima do, in a tenth (tests/test_pooling.py compares).
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H // 2, W // 2]."""
        if not _is_plain(x):
            return self._by_pytorch(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return _largest(x)
        # oneDNN passes over what is no number, and would hide that a run diverged.
        if not x.detach().sum().isfinite():
            return self._by_pytorch(x)
        return F.max_pool2d(x.to_mkldnn(), 2, 2).to_dense()

    def _by_pytorch(self, x: Tensor) -> Tensor:
        return super().forward(x)  # type: ignore[no-any-return]


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Average pooling to a fixed size, whose gradient has the same bits each time on a GPU too.

    Where windows overlap, PyTorch's CUDA kernel for images in plain order adds their gradients atomically, in the order
    in which threads arrive. The one for channels-last images has a thread a pixel, which adds them in one order
    (aten/src/ATen/native/cuda/AdaptiveAveragePooling.cu). No GPU has run it yet.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, *output_size]."""
        return super().forward(as_channels_last(x) if x.device.type == "cuda" else x)


def as_channels_last(x: Tensor) -> Tensor:
    """A copy that kernels take for channels-last: `contiguous` would leave images of one pixel as they are."""
    return x.clone(memory_format=torch.channels_last)


def _is_plain(x: Tensor) -> bool:
    """Whether the other kernels are the faster ones for it."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous()
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _largest(x: Tensor) -> Tensor:
    """The larger of two rows, then of two columns."""
    h, w = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
    rows = torch.maximum(x[..., 0:h:2, :w], x[..., 1:h:2, :w])  # [B, C, H // 2, w]
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])
