"""How well a run answers on its validation images, batch by batch; everything is left on the device until the end.

B batch, C channels, H height, W width, K classes, N images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ml.setup import Setup

# In fp32 the layers of larger batches leave a CPU's cache: ResNet-8 takes twice as long an image at 512 as at 64,
# AlexNet a fifth longer; LeNet is indifferent. A pause waits a second at most for the batch in hand.
CPU_BATCH_FLOPS = 2e9
SMALLEST, LARGEST = 32, 1024
GPU_BATCH = 2048  # enough to fill a large GPU; its memory holds the activations of training's batches anyway


class Verdict(NamedTuple):
    """Mean loss, accuracy in 0..1, and of each image [N]: predicted class, its probability, its logits [N, K]."""

    loss: float
    accuracy: float
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    logits: NDArray[np.float16]


def evaluate(run: Setup) -> Iterator[int | Verdict]:
    """Evaluate the run's answering model: before each batch yields how many images are done, at the end the verdict.

    The size of the batches follows from model and device alone, as it shapes the last digits of the loss.
    """
    model, n = run.answering, len(run.val_images)
    batch = batch_size(run)
    model.eval()
    losses, parts = [], []
    for start in range(0, n, batch):
        yield start
        loss, logits = answer(run, model, slice(start, start + batch))
        losses.append(loss)
        parts.append(logits)
    yield judge(run, torch.stack(losses), torch.cat(parts))


@torch.inference_mode()
def answer(run: Setup, model: nn.Module, part: slice) -> tuple[Tensor, Tensor]:
    """Summed loss over a part of the validation images, and their logits [B, K] float32; both on the device."""
    x, y = run.scale(run.val_images[part]), run.val_labels[part]
    with run.autocast():
        logits = model(x)  # [B, K]
    logits = logits.float()
    return F.cross_entropy(logits, y, reduction="sum"), logits


@torch.inference_mode()
def judge(run: Setup, losses: Tensor, logits: Tensor) -> Verdict:
    """From the batches' losses and all logits [N, K]; here the host waits for the device."""
    n = len(logits)
    predicted = logits.argmax(1)
    correct = int((predicted == run.val_labels).sum())
    half = torch.finfo(torch.float16).max
    return Verdict(
        sum(losses.tolist()) / n,
        correct / n,
        predicted.cpu().numpy(),
        logits.softmax(1).amax(1).cpu().numpy(),
        logits.clamp(-half, half).half().cpu().numpy(),
    )


def batch_size(run: Setup) -> int:
    """Images a batch: a power of two, by the model's work an image on a CPU."""
    if run.device.type != "cpu":
        return GPU_BATCH
    fits = CPU_BATCH_FLOPS / max(1, run.flops)
    return int(min(LARGEST, max(SMALLEST, 2 ** int(np.log2(fits)))))
