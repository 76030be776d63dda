"""How many validation images are looked at together: one rule, for the training and for what is told before it."""

from __future__ import annotations

import math

# Larger batches leave a CPU's cache, and their memory is fetched anew from the system at every layer: at 1,024 LeNet
# takes 2.6 times as long an image as at 128, and at 128 ResNet-8 in fp32 1.7 times as long as at 64, within a run's
# process. A pause waits a second at most for the batch in hand.
CPU_BATCH_FLOPS = 2e9
SMALLEST, LARGEST = 32, 128
# A GPU is filled by far less. With this much work ResNet-18 has 128 images of 224x224, which take less memory than a
# training batch of 32; no GPU has measured it.
GPU_BATCH_FLOPS = 5e11
GPU_LARGEST = 2048


def evaluation_batch(forward_flops: int, device: str) -> int:
    """Images a batch: a power of two, by the model's work an image."""
    work, largest = (CPU_BATCH_FLOPS, LARGEST) if device == "cpu" else (GPU_BATCH_FLOPS, GPU_LARGEST)
    fits = max(1.0, work / max(1, forward_flops))
    return min(largest, max(SMALLEST, int(2 ** int(math.log2(fits)))))
