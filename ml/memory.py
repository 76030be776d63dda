"""What to say when memory runs out: what was asked for, what was free, and a batch size that should fit.

The suggestion is counted, not guessed: the bytes that autograd keeps of a batch of two, on the CPU, whatever the
device. Kernels need some more (OVERHEAD).
"""

from __future__ import annotations

import re
import resource
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
_ASKED = re.compile(r"tried to allocate (?P<size>[\d.]+) (?P<unit>bytes|[KMGT]iB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


class OutOfMemory(ValueError):
    """The device has too little memory for the spec; the message names a remedy."""


def explain(error: BaseException, spec: RunSpec, data: Split, device: torch.device) -> OutOfMemory | None:
    """What to tell of an error that means that memory ran out; None of any other.

    Call it once the training's tensors are gone, so that what is free is what the next try will have.
    """
    asked = _ASKED.search(str(error))
    if not isinstance(error, RuntimeError) or asked is None:
        return None
    asked_bytes = float(asked["size"]) * _UNITS[asked["unit"].lower()]
    free = free_bytes(device)
    return OutOfMemory(
        describe_shortage(spec.batch_size, asked_bytes, free, device, _remedy(spec, data, free))
    )


def describe_shortage(batch: int, asked: float, free: float, device: torch.device, remedy: str) -> str:
    name = f"GPU {device.index or 0}" if device.type == "cuda" else "CPU"
    return (
        f"Out of memory at batch size {batch}: {_size(asked)} more were asked for, and {_size(free)} are free for "
        f"this run ({name}). {remedy}"
    )


def _remedy(spec: RunSpec, data: Split, free: float) -> str:
    batch = suggest_batch(spec, data, free)
    if batch < 1:
        return "Not even a batch of one image fits: choose a smaller model or another machine."
    return f"Try batch size {batch}, or a smaller model."


def suggest_batch(spec: RunSpec, data: Split, free: float) -> int:
    """The largest power of two below the spec's batch size whose training should fit in `free` bytes; 0 for none."""
    fixed, per_image = count_bytes(spec, data)
    images = min((free * USABLE - fixed) / (per_image * OVERHEAD), spec.batch_size - 1)
    return 2 ** (int(images).bit_length() - 1) if images >= 1 else 0


def count_bytes(spec: RunSpec, data: Split) -> tuple[float, float]:
    """What a training needs whatever its batches are, and what autograd keeps of one image."""
    model = build_model(
        spec.model, MODELS[spec.model].options.model_validate(spec.model_options), data.shape, data.classes
    )
    weights = sum(p.numel() for p in model.parameters()) * 4
    images = data.train_images.nbytes + data.val_images.nbytes
    copies = 2 + STATES[spec.optimizer] + (1 if spec.ema else 0)  # weights, gradients, ...
    return weights * copies + images, _kept_bytes(model, torch.rand(2, *data.shape)) / 2


def _kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Memory of the tensors that a backward pass needs, the weights themselves apart."""
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
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
