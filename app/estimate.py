"""What a run will need, by arithmetic: memory, time and whether a slot has it. Pure functions of facts.

Sizes are in bytes, times in seconds. The memory is an estimate of the peak: weights, gradients, the optimizer's state,
what the forward pass keeps for the backward pass, the images, and the process itself. What the process takes, and what
bf16 saves, are round figures that no GPU has confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml.batches import evaluation_batch
from ml.catalog import DATASETS, MODELS
from ml.precision import gains_from_bf16
from ml.spec import RunSpec

FLOAT = 4
CPU_PROCESS = 800e6  # a trainer without a model, pages of libraries included (benchmarks/preflight.py)
GPU_PROCESS = 900e6  # CUDA's context and the libraries' workspaces
OPTIMIZER_STATE = {"sgd": 0.0, "adam": 2.0, "adamw": 2.0, "muon": 2.0}  # numbers a weight
EVALUATION_SHARE = 1 / 3  # of a step's time an image: the forward pass alone
BF16_SPEEDUP = 1.8


@dataclass(frozen=True)
class Pace:
    """How fast a slot computes: worker/pace.py measures it."""

    convolution: float  # operations a second
    thin: float  # the same where channels are few
    linear: float
    output: float  # bytes of layers' outputs a second
    call: float  # seconds of a layer that computes nothing


@dataclass(frozen=True)
class Slot:
    """What one slot of a worker has; `memory` is all of its GPU, or of the host that its slots share."""

    worker: str
    host: str
    device: str  # cpu or cuda
    memory: int
    threads: int
    slots: int
    pace: Pace | None = None


@dataclass(frozen=True)
class Memory:
    """The parts of a run's peak."""

    model: int  # weights, gradients, optimizer, average, and on a CPU the copies that a checkpoint is made of
    activations: int
    data: int
    process: int

    @property
    def total(self) -> int:
        return self.model + self.activations + self.data + self.process


def read_slot(worker: str, host: str, slots: int, capacity: Mapping[str, Any]) -> Slot | None:
    """A worker's slot as it describes itself; None while it has not yet."""
    if "memory" not in capacity:
        return None
    pace = capacity.get("pace")
    return Slot(
        worker,
        host,
        capacity["device"],
        capacity["memory"],
        capacity["threads"],
        slots,
        Pace(**pace) if pace else None,
    )


def is_for(spec: RunSpec, slot: Slot) -> bool:
    """Whether the spec's device may be this slot's."""
    return spec.device == "auto" or spec.device == slot.device


def estimate_memory(spec: RunSpec, anatomy: Mapping[str, Any], device: str) -> Memory:
    """The peak on a device, cpu or cuda, of one of its processes."""
    weights = (anatomy["parameters"] + anatomy["buffers"]) * FLOAT
    trainable = anatomy["trainable"] * FLOAT
    slots = 1.0 if spec.optimizer == "sgd" and spec.momentum else OPTIMIZER_STATE[spec.optimizer]
    state = weights * (2 if spec.ema else 1) + trainable * slots
    copies = 2 * state if device == "cpu" else 0  # a checkpoint and its bytes, at an epoch's end
    number = 0.5 if is_bf16(spec) else 1.0
    batch = -(-spec.batch_size // spec.devices)
    training = batch * (anatomy["kept_bytes"] * number + 2 * anatomy["largest_bytes"])
    looked_at = min(evaluation_batch(anatomy["forward_flops"], device), count_validation(spec))
    evaluating = looked_at * 3 * anatomy["largest_bytes"] * number
    return Memory(
        model=round(state + max(trainable, copies)),
        activations=round(max(training, evaluating)),
        data=count_data(spec, device),
        process=round(CPU_PROCESS if device == "cpu" else GPU_PROCESS),
    )


def is_bf16(spec: RunSpec) -> bool:
    return spec.precision == "bf16" or (spec.precision == "auto" and gains_from_bf16(spec.model))


def count_validation(spec: RunSpec) -> int:
    return spec.val_size or DATASETS[spec.dataset].val_size


def count_data(spec: RunSpec, device: str) -> int:
    """The images as bytes with their labels: on a CPU the whole set and what was chosen of it, on a GPU that alone."""
    data = DATASETS[spec.dataset]
    each = data.shape[0] * data.shape[1] * data.shape[2] + 8
    chosen = spec.images_per_epoch + count_validation(spec)
    whole = data.train_size + data.val_size if device == "cpu" else 0
    return each * (chosen + whole)


def estimate_epoch(spec: RunSpec, anatomy: Mapping[str, Any], pace: Pace) -> float:
    """Seconds of an epoch with its evaluation, from what a slot was measured to do; within a factor of two or so."""
    thin = min(anatomy["thin_flops"], anatomy["convolution_flops"])
    thick, linear = anatomy["convolution_flops"] - thin, anatomy["step_flops"] - anatomy["convolution_flops"]
    image: float = thick / pace.convolution + thin / pace.thin + linear / pace.linear
    image = (image + anatomy["moved_bytes"] / pace.output) / (BF16_SPEEDUP if is_bf16(spec) else 1.0)
    step: float = len(anatomy["layers"]) * pace.call + anatomy["trainable"] * FLOAT / pace.output
    images = spec.images_per_epoch + count_validation(spec) * EVALUATION_SHARE
    return images * image + spec.steps_per_epoch * step


def fits(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> bool:
    return estimate_memory(spec, anatomy, slot.device).total <= slot.memory


def largest_batch(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> int | None:
    """The largest power of two below the spec's batch size that fits into the slot; None where not even 1 does."""
    batch = 1 << (spec.batch_size - 1).bit_length()
    while batch > 1:
        batch //= 2
        smaller = spec.model_copy(update={"batch_size": batch, "devices": min(spec.devices, batch)})
        if fits(smaller, anatomy, slot):
            return batch
    return None


def explain_refusal(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> str:
    """Why the run cannot be had on the slot, and what could."""
    title, batch = MODELS[spec.model].title, f"{spec.batch_size:,}"
    need, have = as_size(estimate_memory(spec, anatomy, slot.device).total), as_size(slot.memory)
    smaller = largest_batch(spec, anatomy, slot)
    if smaller is None:
        return f"{title} needs about {need}, and the largest slot has {have}: choose a smaller model or fewer images"
    smaller_batch = f"{smaller:,}"
    return (
        f"{title} with batch size {batch} needs about {need}, and the largest slot has {have}: "
        f"try batch size {smaller_batch}"
    )


def as_size(nbytes: float) -> str:
    """`180 MB`, `1.2 GB`, `38 GB`."""
    if nbytes < 999.5e6:
        return f"{nbytes / 1e6:.0f} MB"
    return f"{nbytes / 1e9:.1f} GB" if nbytes < 9.95e9 else f"{nbytes / 1e9:.0f} GB"
