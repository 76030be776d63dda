"""LeNet, as the homework prints it.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", section II.B.
Deviations, all the homework's: no padding (the paper's 28x28 digits lie in a 32x32 field), sigmoid for the
scaled tanh, max-pooling for trainable averaging, full connections from 6 to 16 maps, a plain linear output
for the RBF units.

B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from ml.catalog import LeNetOptions
from ml.models.pooling import MaxPool2d

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
POOLINGS: dict[str, Callable[[], nn.Module]] = {"max": MaxPool2d, "avg": lambda: nn.AvgPool2d(2)}


def build(options: LeNetOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape], 16x16 or larger -> logits [B, classes]; 44,426 parameters for [1, 28, 28] and 10."""
    c, h, w = shape
    act, pool = ACTIVATIONS[options.activation], POOLINGS[options.pooling]
    flat = 16 * (((h - 4) // 2 - 4) // 2) * (((w - 4) // 2 - 4) // 2)
    layers = OrderedDict[str, nn.Module](  # sizes for 28x28
        conv1=nn.Conv2d(c, 6, kernel_size=5),  # [B, 6, 24, 24]
        act1=act(),
        pool1=pool(),  # [B, 6, 12, 12]
        conv2=nn.Conv2d(6, 16, kernel_size=5),  # [B, 16, 8, 8]
        act2=act(),
        pool2=pool(),  # [B, 16, 4, 4]
        flatten=nn.Flatten(),  # [B, 256]
        fc3=nn.Linear(flat, 120),
        act3=act(),
        fc4=nn.Linear(120, 84),
        act4=act(),
        fc5=nn.Linear(84, classes),  # [B, K]
    )
    model = nn.Sequential(layers)
    if options.init == "xavier":
        model.apply(_xavier)
    return model


def _xavier(module: nn.Module) -> None:
    """Xavier uniform weights and zero biases (Glorot and Bengio 2010, equation 16)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
