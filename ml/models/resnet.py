"""Residual networks for small images, and the plain networks of the same depth.

He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition". ResNet-8 and ResNet-20 follow
section 4.2: a 3x3 stem, three stages of 16, 32 and 64 maps with n blocks each (6n+2 weighted layers), global
average pooling, and shortcuts of option A (every second pixel, new maps filled with zeros), which add no
parameters. ResNet-8 is n = 1, one size below the paper's smallest (n = 3, ResNet-20); ResNet-56 is n = 9.
ResNet-18, -34 and -50 follow table 1 with projection shortcuts (option B) where the shape changes; their stem
is one 3x3 convolution without pooling, as a 7x7 of stride 2 and a pooling would leave 7x7 of a 28x28 image.
ResNet-50's blocks are the bottlenecks of figure 5, with the stride in the 3x3 convolution as torchvision has
it (the paper puts it in the first 1x1). Weights as in section 3.4: He et al. 2015 (normal); the last linear
layer keeps PyTorch's default.

With `residual` off the shortcuts are left out and all else stays, as in the paper's plain nets.

B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ml.catalog import ResNetOptions


def resnet8(options: ResNetOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] -> logits [B, classes]; 75,002 parameters for one channel and 10 classes."""
    return _small(1, options, shape, classes)


def resnet20(options: ResNetOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] -> logits [B, classes]; 269,434 parameters for one channel and 10 classes."""
    return _small(3, options, shape, classes)


def resnet56(options: ResNetOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] -> logits [B, classes]; 852,730 parameters for one channel and 10 classes."""
    return _small(9, options, shape, classes)


def resnet18(options: ResNetOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] -> logits [B, classes]; 11,172,810 parameters for one channel and 10 classes."""
    return _large((2, 2, 2, 2), options, shape, classes)


def resnet34(options: ResNetOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] -> logits [B, classes]; 21,280,970 parameters for one channel and 10 classes."""
    return _large((3, 4, 6, 3), options, shape, classes)


def resnet50(options: ResNetOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] -> logits [B, classes]; 23,519,690 parameters for one channel and 10 classes."""
    return _large((3, 4, 6, 3), options, shape, classes, bottleneck=True)


def _small(n: int, options: ResNetOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Section 4.2: 6n + 2 layers."""
    return ResNet(
        shape[0], classes, widths=(16, 32, 64), blocks=(n, n, n), residual=options.residual, project=False
    )


def _large(
    blocks: tuple[int, ...],
    options: ResNetOptions,
    shape: tuple[int, int, int],
    classes: int,
    *,
    bottleneck: bool = False,
) -> nn.Module:
    """Table 1."""
    return ResNet(
        shape[0],
        classes,
        widths=(64, 128, 256, 512),
        blocks=blocks,
        residual=options.residual,
        project=True,
        bottleneck=bottleneck,
    )


class ResNet(nn.Module):
    """A 3x3 stem, for each width a stage of so many `blocks`, global average pooling, one linear layer.

    Every stage but the first halves height and width in its first block.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        residual: bool,
        project: bool,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        stem = {"conv": _conv3x3(channels, widths[0]), "norm": nn.BatchNorm2d(widths[0]), "relu": nn.ReLU()}
        self.stem = nn.Sequential(OrderedDict(stem))
        stages: list[nn.Module] = []
        c_in = widths[0]
        body, expansion = (_bottleneck, 4) if bottleneck else (_basic, 1)
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage: list[nn.Module] = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                c_out = width * expansion
                convolutions = body(c_in, width, stride)  # first: the order of the draws is part of a seed
                shortcut = _shortcut(c_in, c_out, stride, project=project) if residual else None
                stage.append(Block(convolutions, shortcut))
                c_in = c_out
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(c_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))  # [B, C, H, W] -> [B, widths[-1], H', W']
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # [B, widths[-1]] -> [B, K]


class Block(nn.Module):
    """Convolutions F(x), then relu(F(x) + shortcut(x)); relu(F(x)) in a plain net (figure 2)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)  # [B, c_in, H, W] -> [B, c_out, H/stride, W/stride]
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return torch.relu(y)


def _basic(c_in: int, width: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions."""
    layers = OrderedDict[str, nn.Module](
        conv1=_conv3x3(c_in, width, stride),
        norm1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(),
        conv2=_conv3x3(width, width),
        norm2=nn.BatchNorm2d(width),
    )
    return nn.Sequential(layers)


def _bottleneck(c_in: int, width: int, stride: int) -> nn.Module:
    """1x1 down to `width` maps, 3x3, 1x1 up to four times as many."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(c_in, width, 1, bias=False),
        norm1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(),
        conv2=_conv3x3(width, width, stride),
        norm2=nn.BatchNorm2d(width),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(width, 4 * width, 1, bias=False),
        norm3=nn.BatchNorm2d(4 * width),
    )
    return nn.Sequential(layers)


def _shortcut(c_in: int, c_out: int, stride: int, *, project: bool) -> nn.Module:
    """The identity where the shape stays, otherwise option A, or B to `project`."""
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return _Projection(c_in, c_out, stride) if project else _PadShortcut(c_out - c_in, stride)


class _PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, `extra` maps of zeros behind the given ones."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        # Pooling over single pixels picks what x[:, :, ::s, ::s] picks, and its gradient keeps the channels side by
        # side, which a slice's does not: every layer before it then took a fifth longer.
        picked = F.avg_pool2d(x, 1, self.stride)  # [B, c_in, H, W] -> [B, c_in, H/stride, W/stride]
        return F.pad(picked, (0, 0, 0, 0, 0, self.extra))


class _Projection(nn.Sequential):
    """Option B: a 1x1 convolution of the given stride with batch normalisation."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        super().__init__(OrderedDict[str, nn.Module](conv=conv, norm=nn.BatchNorm2d(c_out)))


def _conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    # No bias: the batch normalisation behind it has one.
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
