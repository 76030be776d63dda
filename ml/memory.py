"""What to say when memory runs out: what was asked for, what was free, and a batch size that should fit.

The suggestion is counted, not guessed: the bytes that autograd keeps of a batch of two, on the CPU, whatever the
device. Kernels need some more (OVERHEAD).
"""

from __future__ import annotations

import gc
import re
import resource
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ml.catalog import MODELS
from ml.data import Split
from ml.models import build_model
from ml.spec import RunSpec

OVERHEAD = 1.6  # gradients of activations live beside them for a while, and kernels take scratch memory
USABLE = 0.8  # of what is free: memory is fragmented, and others want some too
STATES = {"sgd": 1, "adam": 2, "adamw": 2, "muon": 2}  # numbers that an optimizer keeps a weight
_SHORTAGE = re.compile(r"out of memory|can't allocate memory|STATUS_ALLOC_FAILED", re.IGNORECASE)
_ASKED = re.compile(
    r"(?:tried to allocate|trying to allocate|requested size:) (?P<size>[\d.]+) (?P<unit>bytes|[KMGT]iB)",
    re.IGNORECASE,
)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


class OutOfMemory(ValueError):
    """The device has too little memory for the spec; the message names a remedy."""


def explain(error: BaseException, spec: RunSpec, data: Split, device: torch.device) -> OutOfMemory | None:
    """What to tell of an error that means that memory ran out; None of any other.

    Lets go of the training's tensors, which the error's frames hold, so that what is free is what the next try will
    have.
    """
    shortage = next(filter(is_shortage, _chain(error)), None)
    if shortage is None:
        return None
    for one in _chain(error):
        traceback.clear_frames(one.__traceback__)
    gc.collect()  # a module and its graph hold each other
    free = free_bytes(device)
    return OutOfMemory(
        describe_shortage(
            spec.batch_size, read_asked(shortage), free, device, _remedy(spec, data, free, device)
        )
    )


def is_shortage(error: BaseException) -> bool:
    """Whether memory ran out. Not an AcceleratorError, such as that of a GPU that others have filled: the process can
    do nothing with it any more, and the next may have more luck."""
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, torch.AcceleratorError)
        and (isinstance(error, torch.OutOfMemoryError) or _SHORTAGE.search(str(error)) is not None)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came after: one within a graph's recording is masked by that of ending it."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def read_asked(error: BaseException) -> float | None:
    """The bytes that could not be had; None where the error does not say."""
    asked = _ASKED.search(str(error))
    return None if asked is None else float(asked["size"]) * _UNITS[asked["unit"].lower()]


def describe_shortage(batch: int, asked: float | None, free: float, device: torch.device, remedy: str) -> str:
    name = f"GPU {device.index or 0}" if device.type == "cuda" else "CPU"
    if asked is None:
        return f"Out of memory at batch size {batch}: {_size(free)} are free for this run ({name}). {remedy}"
    return (
        f"Out of memory at batch size {batch}: {_size(asked)} more were asked for, and {_size(free)} are free for "
        f"this run ({name}). {remedy}"
    )


def _remedy(spec: RunSpec, data: Split, free: float, device: torch.device) -> str:
    batch = suggest_batch(spec, data, free)
    if batch < 1 and spec.devices > 1 and device.type == "cpu":  # whose memory they share
        return "Not even an image a process fits: choose fewer devices, a smaller model or another machine."
    if batch < 1:
        return "Not even a batch of one image fits: choose a smaller model or another machine."
    return f"Try batch size {batch}, or a smaller model."


def suggest_batch(spec: RunSpec, data: Split, free: float) -> int:
    """The largest power of two below the spec's batch size whose training should fit where `free` bytes are free for
    each of the devices that share it; as many images as devices where that is all that fits, 0 for none."""
    fixed, per_image = count_bytes(spec, data)
    each = min((free * USABLE - fixed) / (per_image * OVERHEAD), spec.batch_size)
    images = min(int(max(0.0, each)) * spec.devices, spec.batch_size - 1)
    return max(2 ** (images.bit_length() - 1), spec.devices) if images >= spec.devices else 0


def count_bytes(spec: RunSpec, data: Split) -> tuple[float, float]:
    """What a training needs whatever its batches are, and what autograd keeps of one image."""
    model = build_model(
        spec.model, MODELS[spec.model].options.model_validate(spec.model_options), data.shape, data.classes
    )
    weights = sum(p.numel() for p in model.parameters()) * 4
    images = data.train_images.nbytes + data.val_images.nbytes
    copies = 2 + STATES[spec.optimizer] + (1 if spec.ema else 0)  # weights, gradients, ...
    copies += 1 if spec.devices > 1 else 0  # in which the gradients of all are averaged
    return weights * copies + images, _kept_bytes(model, torch.rand(2, *data.shape)) / 2


def _kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Memory of the tensors that a backward pass needs, the weights themselves apart."""
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.is_mkldnn:  # oneDNN's own layout has no storage to ask (ml/models/pooling.py)
            kept += tensor.numel() * tensor.element_size()
            return tensor
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen.add(place)
            kept += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model.train()(x).sum()
    return kept + int(loss.numel())


def free_bytes(device: torch.device) -> float:
    """What a training on `device` could have: on a GPU with what this process holds in reserve."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_available(), _below_limit(), _below_cgroup())


def _available() -> float:
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    return float(found[1]) * 1024 if found else float("inf")


def _below_limit() -> float:
    """Until the process's own limit of address space (ulimit -v)."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _read("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not used:
        return float("inf")
    return max(0.0, limit - float(used[0]) * resource.getpagesize())


def _below_cgroup() -> float:
    """Until the container's limit."""
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    return max(0.0, float(limit) - float(used)) if limit.isdigit() and used.isdigit() else float("inf")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _size(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
