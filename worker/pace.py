"""How fast one slot computes, as a line of JSON: forked once a worker from `worker.forkserver`, or
`python -m worker.pace`; with a slot's threads.

Five figures, each from a small thing done some times: the operations of a convolution as ResNets have it, of one with
few channels as LeNet has it, and of a linear layer, the memory that batch normalisation and ReLU move, and what the
call of a layer costs when it computes nothing. They serve an estimate where no finished run tells better
(app/estimate.py), so a second must do. The fastest round counts: what slows the others is the machine's other work.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

ROUNDS = 5
SECONDS = 0.15  # for each figure
MAPS, SIDE, IMAGES = 32, 28, 32
THIN = (6, 16)
WIDTH, ROWS = 512, 64
TINY_LAYERS = 8


def measure_pace(device: torch.device) -> dict[str, float]:
    """`convolution`, `thin` and `linear`: operations a second; `output`: bytes of layers a second; `call`: seconds of a
    layer. All of them forward and backward."""
    images = torch.randn(IMAGES, MAPS, SIDE, SIDE, device=device, requires_grad=True)
    convolution = nn.Conv2d(MAPS, MAPS, 3, padding=1, bias=False).to(device)
    pointwise = nn.Sequential(nn.BatchNorm2d(MAPS), nn.ReLU()).to(device)
    tiny = nn.Sequential(*(nn.Linear(8, 8) for _ in range(TINY_LAYERS))).to(device)
    thin, few = nn.Conv2d(*THIN, 5).to(device), images[:, : THIN[0]].detach().requires_grad_()
    side = SIDE - 4
    linear, rows = (
        nn.Linear(WIDTH, WIDTH).to(device),
        torch.randn(ROWS, WIDTH, device=device, requires_grad=True),
    )
    # Forward, and twice as much in the backward pass: for the weights, and for what comes before.
    return {
        "convolution": 3
        * 2
        * 9
        * MAPS
        * MAPS
        * IMAGES
        * SIDE
        * SIDE
        / time_step(convolution, images, device),
        "thin": 3 * 2 * 25 * THIN[0] * THIN[1] * IMAGES * side * side / time_step(thin, few, device),
        "linear": 3 * 2 * WIDTH * WIDTH * ROWS / time_step(linear, rows, device),
        "output": 2 * images.nbytes / time_step(pointwise, images, device),
        "call": time_step(tiny, torch.randn(1, 8, device=device), device) / TINY_LAYERS,
    }


def time_step(model: nn.Module, x: Tensor, device: torch.device) -> float:
    """Seconds of forward and backward."""

    def step() -> None:
        model(x).sum().backward()

    step()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < ROUNDS or time.perf_counter() - began < SECONDS:
        times.append(_time(step, device))
    return min(times)


def _time(step: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> int:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(json.dumps(measure_pace(device)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
