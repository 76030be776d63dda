"""AlexNet for 224x224 photographs, as torchvision has it.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks": the 2012 network without its split
over two GPUs, with 64, 192, 384, 256 and 256 maps. torchvision leaves out local response normalisation and starts from
PyTorch's default weights. With 1,000 classes it has torchvision's 61,100,840 parameters. Here small images are enlarged
to its size, and a grey one counts as three equal channels.

B batch, C channels, H height, W width, K classes, S side in pixels.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models import alexnet

from ml.catalog import AlexNet224Options
from ml.models.photographs import Photographs
from ml.models.pooling import AdaptiveAvgPool2d


def build(options: AlexNet224Options, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] -> logits [B, classes]; 57,044,810 parameters for 10 classes."""
    photographs = Photographs(shape[0], options.image_size, normalize=False)  # [B, 3, S, S]
    net = alexnet(weights=None, num_classes=classes, dropout=options.dropout)
    net.avgpool = AdaptiveAvgPool2d((6, 6))  # its windows overlap at most sizes but 224
    return nn.Sequential(OrderedDict[str, nn.Module](photographs=photographs, net=net))
