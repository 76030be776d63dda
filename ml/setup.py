"""From a spec and its data to model, optimizer and resident tensors: all that the loop needs, none of the
looping."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

from ml.averaging import average
from ml.catalog import MODELS
from ml.crew import ALONE, Crew
from ml.data import VAL_SEED, Split, split_for, subset
from ml.models import build_model, count_parameters
from ml.models.pretrained import start_from
from ml.muon import MuonAdamW
from ml.numerics import Numerics, choose, use
from ml.spec import RunSpec


@dataclass(frozen=True)
class Setup:
    """A run ready to train. Images [N, C, H, W] uint8 and labels [N] int64 lie on `device`.

    `forward` is the model as training calls it: compiled where that was chosen. `averaged` holds the running average of
    the weights where the spec wants one; that is evaluated then.
    """

    crew: Crew
    device: torch.device
    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer | MuonAdamW
    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    pixel_max: float
    mean: Tensor
    std: Tensor
    numerics: Numerics
    steps_per_epoch: int
    total_steps: int
    parameters: int
    resolved: dict[str, Any]

    @property
    def answering(self) -> nn.Module:
        """The model that is evaluated."""
        return self.model if self.averaged is None else self.averaged

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of a forward pass of one image, multiplications and additions."""
        was_training = self.model.training
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            self.model.eval()(self.scale(self.val_images[:1]))
        self.model.train(was_training)
        return int(counter.get_total_flops())

    def scale(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> float32, by the arithmetic of torchvision's ToTensor and Normalize."""
        x = images.float().div_(self.pixel_max).sub_(self.mean).div_(self.std)
        return x.contiguous(memory_format=torch.channels_last) if self.numerics.channels_last else x

    def autocast(self) -> torch.autocast:
        """Matrix products and convolutions in bfloat16 where that was chosen; otherwise nothing."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.numerics.bf16)


def pick_device(asked: str, slot: int | None = None) -> torch.device:
    """The device for a spec's "auto", "cpu" or "cuda" on a worker's slot.

    Auto takes the slot's GPU where there is one. Slots beyond the number of GPUs share them in turn.

    Raises:
        ValueError: "cuda" where there is no GPU.
    """
    gpus = torch.cuda.device_count() if asked != "cpu" and torch.cuda.is_available() else 0
    if gpus:
        return torch.device("cuda", (slot or 0) % gpus)
    if asked == "cuda":
        raise ValueError(
            "device cuda: this worker sees no GPU. Choose auto or cpu, or start a worker on a GPU machine."
        )
    return torch.device("cpu")


def prepare(
    spec: RunSpec,
    data: Split,
    device: torch.device,
    numerics: Numerics | None = None,
    weights: Mapping[str, Tensor] | None = None,
    crew: Crew = ALONE,
) -> Setup:
    """Build the model (its weights are the next draws of torch's global generator) and move everything to
    `device`. A pretrained model begins with `weights`.

    `numerics` is what a resumed run had; a new one gets what `ml.numerics` chooses. On a GPU its switches are set for
    the whole process.

    Raises:
        ValueError: the data hold fewer images than the spec asks for, or are too small for the model; what the spec
            asks for cannot be had on this machine.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # or streams, graphs and questions to the hardware would be of GPU 0
    numerics = numerics or choose(spec, device)
    use(numerics, device)
    data = split_for(spec, data)
    options = MODELS[spec.model].options.model_validate(spec.model_options)
    model = build_model(spec.model, options, data.shape, data.classes)
    if weights is not None:
        start_from(model, weights)
    model = model.to(device)
    model = crew.synchronise(model)
    if numerics.channels_last:
        model = model.to(memory_format=torch.channels_last)
    train_images, train_labels = subset(data.train_images, data.train_labels, spec.train_size, spec.seed)
    val_images, val_labels = subset(data.val_images, data.val_labels, spec.val_size, VAL_SEED)
    # A pretrained model standardizes by ImageNet's figures itself.
    scaling = "unit" if MODELS[spec.model].pretrained else spec.input_scaling
    pixel_max, mean, std = _scaling(scaling, data)
    steps_per_epoch = -(-len(train_images) // spec.batch_size)
    parameters = count_parameters(model)
    learner = torch.compile(model, dynamic=False) if numerics.compile == "inductor" else model
    return Setup(
        crew=crew,
        device=device,
        model=model,
        forward=crew.join(learner, spec.seed),  # type: ignore[arg-type]
        averaged=average(model) if spec.ema else None,
        optimizer=make_optimizer(spec, model, numerics),
        train_images=train_images.to(device),
        train_labels=train_labels.to(device),
        val_images=val_images.to(device),
        val_labels=val_labels.to(device),
        pixel_max=pixel_max,
        mean=torch.tensor(mean, device=device).view(1, -1, 1, 1),
        std=torch.tensor(std, device=device).view(1, -1, 1, 1),
        numerics=numerics,
        steps_per_epoch=steps_per_epoch,
        total_steps=spec.epochs * steps_per_epoch,
        parameters=parameters,
        resolved={
            "data_digest": data.digest,
            "val_digest": data.val_digest,
            "train_images": len(train_images),
            "val_images": len(val_images),
            "classes": data.classes,
            "mean": list(mean),
            "std": list(std),
            "parameters": parameters,
            **numerics.facts(),
            "device": str(device),
            "device_name": _device_name(device),
            "threads": torch.get_num_threads(),
            "code": code_digest(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    )


def make_optimizer(spec: RunSpec, model: nn.Module, numerics: Numerics) -> torch.optim.Optimizer | MuonAdamW:
    """The spec's optimizer over all parameters; in a CUDA graph the rate is a tensor."""
    in_graph = numerics.compile == "graph"
    fused = numerics.fused or None  # None: PyTorch's plain loop on a CPU, its grouped kernels on a GPU
    lr: Any = torch.tensor(spec.lr, device=next(model.parameters()).device) if in_graph else spec.lr
    match spec.optimizer:
        case "sgd":
            return torch.optim.SGD(
                model.parameters(),
                lr=lr,
                momentum=spec.momentum,
                weight_decay=spec.weight_decay,
                nesterov=spec.nesterov,
                fused=fused,
            )
        case "adam" | "adamw":
            kind = torch.optim.Adam if spec.optimizer == "adam" else torch.optim.AdamW
            adam = kind(
                model.parameters(), lr=lr, weight_decay=spec.weight_decay, fused=fused, capturable=in_graph
            )
            # It need not warn of steps outside of the graph: the first ones and an epoch's last have to be.
            adam._warned_capturable_if_run_uncaptured = True
            return adam
        case "muon":
            return MuonAdamW(
                model,
                lr=spec.lr,
                momentum=spec.momentum,
                nesterov=spec.nesterov,
                weight_decay=spec.weight_decay,
            )
    raise ValueError(f"unknown optimizer {spec.optimizer!r}")


def set_rate(optimizer: torch.optim.Optimizer | MuonAdamW, lr: float) -> None:
    """In place where a CUDA graph reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def _scaling(kind: str, data: Split) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """What pixels are divided by first, then mean and deviation (one a channel) to standardize with."""
    zeros, ones = (0.0,) * len(data.mean), (1.0,) * len(data.mean)
    match kind:
        case "standardize":
            return 255.0, data.mean, data.std
        case "unit":
            return 255.0, zeros, ones
        case "raw":
            return 1.0, zeros, ones
    raise ValueError(f"unknown input scaling {kind!r}")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


@cache
def code_digest() -> str:
    """The first 16 hex digits of the SHA-256 of this package's sources: which code trained a run."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
