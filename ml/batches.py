"""How many validation images are looked at together: one rule, for the training and for what is told before it."""

from __future__ import annotations

import math

# Larger batches leave a CPU's cache, and their memory is fetched anew from the system: at 1,024 LeNet and ResNet-8 take
# 2.6 times as long an image as at 128, AlexNet a third longer, an MLP a tenth less (fp32; bf16 is alike). A pause waits
# a second at most for the batch in hand.
CPU_BATCH_FLOPS = 4e9
SMALLEST, LARGEST = 32, 128
GPU_BATCH = 2048  # enough to fill a large GPU; its memory holds the activations of training's batches anyway


def evaluation_batch(forward_flops: int, device: str) -> int:
    """Images a batch: on a CPU a power of two, by the model's work an image."""
    if device != "cpu":
        return GPU_BATCH
    fits = CPU_BATCH_FLOPS / max(1, forward_flops)
    return min(LARGEST, max(SMALLEST, int(2 ** int(math.log2(fits)))))
