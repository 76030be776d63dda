"""Every generator of random numbers of a process: Python's, numpy's, torch's on the CPU and on the device.

The loop itself draws from torch's alone. The others are seeded and saved too, so that a model, an augmentation or a
library that draws from them neither makes a run irreproducible nor breaks its resume.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # the legacy generator is the one that others share
    torch.manual_seed(seed)  # all devices


def take_states(device: torch.device) -> dict[str, Any]:
    """Where they stand: tensors, numbers and lists of them, which `torch.load(weights_only=True)` reads."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "rng_python": random.getstate(),
        "rng_numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
    }


def put_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Set them to what `take_states` took. A checkpoint from before has torch's alone."""
    torch.set_rng_state(states["rng"])
    if device.type == "cuda" and states["rng_cuda"] is not None:
        torch.cuda.set_rng_state(states["rng_cuda"], device)
    if states.get("rng_python") is not None:
        version, numbers, gauss = states["rng_python"]
        random.setstate((version, tuple(numbers), gauss))
    if states.get("rng_numpy") is not None:
        name, keys, position, has_gauss, gauss = states["rng_numpy"]
        np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, gauss))
