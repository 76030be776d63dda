"""Small images as the photographs that networks made for ImageNet take: three channels, enlarged on the device.

B batch, C channels, H height, W width, S side in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of ImageNet's photographs in 0..1, by channel; what torchvision's weights were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photographs(nn.Module):
    """Images [B, C, H, W] float32, C 1 or 3 -> [B, 3, S, S]; each batch is resized where it lies.

    Bilinear, smoothed where that makes the image smaller (as torchvision's own preset does). With `normalize`, values
    in 0..1 get ImageNet's mean and deviation.

    Raises:
        ValueError: the images have neither one channel nor three.
    """

    def __init__(self, channels: int, side: int, *, normalize: bool) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"a network made for photographs takes 1 or 3 channels, not {channels}")
        self.side = side
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.side, self.side):
            smooth = min(x.shape[-2:]) > self.side
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=smooth)
        x = x.expand(-1, 3, -1, -1)  # after resizing: a grey image is resized once, not three times
        if not self.normalize:
            return x
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (x - mean) / std
