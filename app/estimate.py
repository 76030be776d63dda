"""What a run will need, by arithmetic: memory, time and whether a slot has it. Pure functions of facts.

Sizes are in bytes, times in seconds. The memory is an estimate of the peak: weights, gradients, the optimizer's state,
what the forward pass keeps for the backward pass, the images, and the process itself. What the process takes, and what
bf16 saves, are round figures that no GPU has confirmed.

A run on several devices: on GPUs each has its own, and the memory is that of one of them; processes on the CPU share
the host's memory and their slot's threads, so it is that of all of them (worker/ranks.py).
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
CPU_SHARED = 300e6  # of that what all processes of a run have together: the libraries' pages
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
    gpus: int = 0  # the most that one run can have
    bf16: bool = True  # its hardware multiplies bf16, as far as is known
    inductor_lacks: str = ""  # what torch.compile would need and is not there


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


def read_slot(worker: str, host: str, slots: int, gpus: int, capacity: Mapping[str, Any]) -> Slot | None:
    """A worker's slot as it describes itself; None while it has not yet. Older ones say less."""
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
        gpus,
        capacity.get("bf16") is not False,
        capacity.get("inductor_lacks", ""),
    )


def is_for(spec: RunSpec, slot: Slot) -> bool:
    """Whether this slot's device may be the run's. One that wants more GPUs than there are has processes on the CPU,
    of whose memory a slot with a GPU tells nothing."""
    if slot.device == "cuda" and spec.devices > max(1, slot.gpus):
        return False
    return spec.device == "auto" or spec.device == slot.device


def lacks_compiler(spec: RunSpec, slot: Slot) -> bool:
    return spec.compile == "inductor" and slot.inductor_lacks != ""


def count_threads(spec: RunSpec, slot: Slot) -> int:
    """Threads of each of the run's processes (worker/ranks.py)."""
    return slot.threads if slot.device == "cuda" else max(1, slot.threads // spec.devices)


def estimate_memory(spec: RunSpec, anatomy: Mapping[str, Any], device: str, bf16: bool = True) -> Memory:
    """The peak: on cuda of one GPU, on cpu of all the run's processes. `bf16`: the hardware multiplies it."""
    ranks = spec.devices if device == "cpu" else 1  # whose memory is counted
    weights = (anatomy["parameters"] + anatomy["buffers"]) * FLOAT
    trainable = anatomy["trainable"] * FLOAT
    slots = 1.0 if spec.optimizer == "sgd" and spec.momentum else OPTIMIZER_STATE[spec.optimizer]
    state = weights * (2 if spec.ema else 1) + trainable * slots
    copies = 2 * state if device == "cpu" else 0  # a checkpoint and its bytes, at an epoch's end, by rank 0
    buckets = trainable if spec.devices > 1 else 0  # in which the ranks' gradients are averaged
    number = 0.5 if is_bf16(spec, bf16) else 1.0
    batch = -(-spec.batch_size // spec.devices)
    training = batch * (anatomy["kept_bytes"] * number + 2 * anatomy["largest_bytes"])
    looked_at = min(evaluation_batch(anatomy["forward_flops"], device), spec.sizes.val)
    evaluating = looked_at * 3 * anatomy["largest_bytes"] * number  # by rank 0 too
    others = (ranks - 1) * (state + trainable + buckets)
    return Memory(
        model=round(state + buckets + max(trainable, copies) + others),
        activations=round(max(training, evaluating) + (ranks - 1) * training),
        data=ranks * count_data(spec, device),
        process=round(count_processes(spec.devices) if device == "cpu" else GPU_PROCESS),
    )


def count_processes(ranks: int) -> float:
    """Bytes of a run's processes on a CPU without their models: several have torchrun's agent beside them."""
    processes = ranks + 1 if ranks > 1 else 1
    return processes * (CPU_PROCESS - CPU_SHARED) + CPU_SHARED


def is_bf16(spec: RunSpec, multiplies: bool) -> bool:
    """Whether the run's numbers are bf16, on hardware that multiplies it or does not: ml/numerics.py decides so."""
    return spec.precision == "bf16" or (
        spec.precision == "auto" and multiplies and gains_from_bf16(spec.model)
    )


def count_data(spec: RunSpec, device: str) -> int:
    """The images as bytes with their labels: on a CPU the whole set and what was chosen of it, on a GPU that alone."""
    data = DATASETS[spec.dataset]
    each = data.shape[0] * data.shape[1] * data.shape[2] + 8
    chosen = sum(spec.sizes)
    whole = data.train_size + data.val_size if device == "cpu" else 0
    return each * (chosen + whole)


def estimate_epoch(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> float | None:
    """Seconds of an epoch with its evaluation, from what a slot was measured to do; within a factor of two or so.

    None while that is not known. GPUs share the images, of which one evaluates; processes on a CPU share the slot's
    threads, so that what each does for itself takes longer where they are more than the threads.
    """
    pace = slot.pace
    if pace is None:
        return None
    thin = min(anatomy["thin_flops"], anatomy["convolution_flops"])
    thick, linear = anatomy["convolution_flops"] - thin, anatomy["step_flops"] - anatomy["convolution_flops"]
    image: float = thick / pace.convolution + thin / pace.thin + linear / pace.linear
    is_faster = slot.bf16 and is_bf16(spec, slot.bf16)
    image = (image + anatomy["moved_bytes"] / pace.output) / (BF16_SPEEDUP if is_faster else 1.0)
    update = anatomy["trainable"] * FLOAT / pace.output
    step: float = len(anatomy["layers"]) * pace.call + update
    if spec.devices > 1:
        step += 2 * update  # the others' gradients, sent and received
    at_once = spec.devices if slot.device == "cuda" else 1
    in_turn = 1.0 if slot.device == "cuda" else max(1.0, spec.devices / slot.threads)
    images = spec.images_per_epoch / at_once + spec.sizes.val * EVALUATION_SHARE
    return images * image + spec.steps_per_epoch * step * in_turn


def fits(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> bool:
    return estimate_memory(spec, anatomy, slot.device, slot.bf16).total <= slot.memory


def largest_batch(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> int | None:
    """The largest power of two below the spec's batch size that fits into the slot; None where not even 1 does."""
    batch = 1 << (spec.batch_size - 1).bit_length()
    while batch > spec.devices:  # each has an image at least
        batch //= 2
        if batch >= spec.devices and fits(spec.model_copy(update={"batch_size": batch}), anatomy, slot):
            return batch
    return None


def fewer_devices(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> int | None:
    """As many devices below the spec's as fit into the slot with its batch size; None where not even one does."""
    for devices in range(spec.devices - 1, 0, -1):
        if fits(spec.model_copy(update={"devices": devices}), anatomy, slot):
            return devices
    return None


def field_to_change(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> str:
    """Of a run that the slot has no room for: the batch size, or the devices where processes alone are too many."""
    if largest_batch(spec, anatomy, slot) is None and fewer_devices(spec, anatomy, slot) is not None:
        return "devices"
    return "batch_size"


def explain_refusal(spec: RunSpec, anatomy: Mapping[str, Any], slot: Slot) -> str:
    """Why the run cannot be had on the slot, and what could."""
    title, batch = MODELS[spec.model].title, f"{spec.batch_size:,}"
    need = as_size(estimate_memory(spec, anatomy, slot.device, slot.bf16).total)
    have = as_size(slot.memory)
    if field_to_change(spec, anatomy, slot) == "devices":
        fewer = fewer_devices(spec, anatomy, slot)
        return (
            f"{title} on {spec.devices} devices needs about {need}, and the largest slot has {have}: "
            f"try devices {fewer}"
        )
    smaller = largest_batch(spec, anatomy, slot)
    if smaller is None:
        return f"{title} needs about {need}, and the largest slot has {have}: choose a smaller model or fewer images"
    smaller_batch = f"{smaller:,}"
    return (
        f"{title} with batch size {batch} needs about {need}, and the largest slot has {have}: "
        f"try batch size {smaller_batch}"
    )


def explain_compiler(slot: Slot) -> str:
    """Why no run can be compiled with Inductor on the slot, and what to do."""
    lacks = slot.inductor_lacks
    return f"compile inductor needs {lacks}, which no worker here has: choose auto or off"


def as_size(nbytes: float) -> str:
    """`180 MB`, `1.2 GB`, `38 GB`."""
    if nbytes < 999.5e6:
        return f"{nbytes / 1e6:.0f} MB"
    return f"{nbytes / 1e9:.1f} GB" if nbytes < 9.95e9 else f"{nbytes / 1e9:.0f} GB"
