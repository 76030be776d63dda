"""Random changes of a training batch, on the device: shift, flip, cutout.

All of a batch is changed at once, by draws from torch's global generator of the batch's device; what is off draws
nothing, so that a run without augmentation has the bits of a plain loop.

B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ml.spec import RunSpec


def augment(images: Tensor, spec: RunSpec) -> Tensor:
    """uint8 [B, C, H, W] -> the same shape, each image changed on its own as `spec` says."""
    if spec.shift:
        images = shift(images, spec.shift)
    if spec.flip:
        images = flip(images)
    if spec.cutout:
        images = cutout(images, spec.cutout)
    return images


def shift(images: Tensor, most: int) -> Tensor:
    """Move each image by up to `most` pixels in both directions; zeros come in at the edge."""
    b, c, h, w = images.shape
    padded = F.pad(images, (most, most, most, most))
    down, right = torch.randint(0, 2 * most + 1, (2, b, 1), device=images.device)
    rows = down + torch.arange(h, device=images.device)  # [B, H]
    columns = right + torch.arange(w, device=images.device)  # [B, W]
    each = torch.arange(b, device=images.device).view(b, 1, 1, 1)
    channels = torch.arange(c, device=images.device).view(1, c, 1, 1)
    return padded[each, channels, rows.view(b, 1, h, 1), columns.view(b, 1, 1, w)]


def flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with a chance of one half."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def cutout(images: Tensor, side: int) -> Tensor:
    """Blank a square of `side` pixels around a random pixel of each image (DeVries and Taylor 2017).

    The centre may lie at the edge: then less of the square is inside, as in the paper.
    """
    b, _c, h, w = images.shape
    top = torch.randint(0, h, (b, 1, 1, 1), device=images.device) - side // 2
    left = torch.randint(0, w, (b, 1, 1, 1), device=images.device) - side // 2
    rows = torch.arange(h, device=images.device).view(1, 1, h, 1)
    columns = torch.arange(w, device=images.device).view(1, 1, 1, w)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return images.masked_fill(inside, 0)
