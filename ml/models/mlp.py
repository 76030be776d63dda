"""A multilayer perceptron: the baseline that knows nothing of images.

Two hidden layers with ReLU over the pixels in a row. Weights: He et al. 2015 (normal) for the hidden layers, zero
biases; the last linear layer keeps PyTorch's default.

B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from ml.catalog import MLPOptions


def build(options: MLPOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] -> logits [B, classes]; 269,322 parameters for [1, 28, 28] and 10."""
    c, h, w = shape
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())  # [B, C * H * W]
    n_in = c * h * w
    for i in range(1, options.layers + 1):
        layers |= {
            f"fc{i}": nn.Linear(n_in, options.width),
            f"relu{i}": nn.ReLU(),
            f"dropout{i}": nn.Dropout(options.dropout),
        }
        n_in = options.width
    for module in layers.values():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    layers[f"fc{options.layers + 1}"] = nn.Linear(n_in, classes)  # [B, K]
    return nn.Sequential(layers)
