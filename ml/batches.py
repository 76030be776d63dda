"""How many validation images are looked at together: one rule, for the training and for what is told before it."""

from __future__ import annotations

import math

# In fp32 the layers of larger batches leave a CPU's cache: ResNet-8 takes twice as long an image at 512 as at 64,
# AlexNet a fifth longer; LeNet is indifferent. A pause waits a second at most for the batch in hand.
CPU_BATCH_FLOPS = 2e9
SMALLEST, LARGEST = 32, 1024
GPU_BATCH = 2048  # enough to fill a large GPU; its memory holds the activations of training's batches anyway


def evaluation_batch(forward_flops: int, device: str) -> int:
    """Images a batch: on a CPU a power of two, by the model's work an image."""
    if device != "cpu":
        return GPU_BATCH
    fits = CPU_BATCH_FLOPS / max(1, forward_flops)
    return min(LARGEST, max(SMALLEST, int(2 ** int(math.log2(fits)))))
