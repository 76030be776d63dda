"""What a network is, told without training it: the shape of every layer, its parameters, and what a step costs.

Everything runs on torch's meta device: shapes are computed, numbers are not, so that the largest model takes no memory
and some milliseconds.

B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ml.models import build_model, count_parameters

THIN = 16  # channels: convolutions with fewer leave vector instructions half empty, and take several times as long
B = 2  # images in the batch that is followed: batch normalisation refuses a single one


@dataclass(frozen=True)
class Layer:
    """One module without modules of its own, in the order in which they are called; `shape` is of one image."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Anatomy:
    """Of one image where not said otherwise; numbers of bytes are those of fp32.

    `parameters` counts all weights, `trainable` those that learn, `buffers` what else the model holds.
    `forward_flops` and `step_flops` count multiplications and additions; a step is forward and backward, and
    `convolution_flops` its part in convolutions, of which `thin_flops` in those with few channels. `kept_bytes` is
    what the forward pass keeps for the backward pass, `largest_bytes` the largest output of a layer, `moved_bytes`
    all of them.
    """

    parameters: int
    trainable: int
    buffers: int
    forward_flops: int
    step_flops: int
    convolution_flops: int
    thin_flops: int
    kept_bytes: int
    largest_bytes: int
    moved_bytes: int
    layers: tuple[Layer, ...]


def dissect(model: str, options: Any, shape: tuple[int, int, int], classes: int) -> Anatomy:
    """The anatomy of a model of the catalog for images of `shape` (C, H, W).

    Raises:
        ValueError: the images do not fit the model, in the words of its own module.
    """
    with torch.device("meta"):
        net = build_model(model, options, shape, classes).train()
        images, labels = torch.empty(B, *shape), torch.zeros(B, dtype=torch.int64)
    layers: list[Layer] = []
    outputs: list[int] = []
    thin: list[int] = []
    kept = Kept(net)
    with FlopCounterMode(display=False) as step, watch_layers(net, layers, outputs, thin):
        with FlopCounterMode(display=False) as forward, kept.hooks():
            loss = F.cross_entropy(net(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
    return Anatomy(
        parameters=sum(p.numel() for p in net.parameters()),
        trainable=count_parameters(net),
        buffers=sum(b.numel() for b in net.buffers()),
        forward_flops=forward.get_total_flops() // B,
        step_flops=step.get_total_flops() // B,
        convolution_flops=count_convolutions(step) // B,
        thin_flops=sum(thin) // B,
        kept_bytes=kept.nbytes // B,
        largest_bytes=max(outputs) // B,
        moved_bytes=sum(outputs) // B,
        layers=tuple(layers),
    )


def count_convolutions(counted: FlopCounterMode) -> int:
    """Of the operations counted, those in convolutions, forward and backward."""
    by_operation = counted.get_flop_counts()["Global"]
    return sum(flops for operation, flops in by_operation.items() if "convolution" in str(operation))


@contextmanager
def watch_layers(net: nn.Module, layers: list[Layer], outputs: list[int], thin: list[int]) -> Iterator[None]:
    """Note each layer, the bytes of its output and a thin convolution's operations as it is called; one that is called
    again has a line again."""
    handles = []
    for name, module in net.named_modules():
        if next(module.children(), None) is not None:
            continue

        def note(module: nn.Module, _given: Any, output: Tensor, name: str = name) -> None:
            own = sum(p.numel() for p in module.parameters())
            layers.append(Layer(name, describe_layer(module), tuple(output.shape[1:]), own))
            outputs.append(output.nbytes)
            if isinstance(module, nn.Conv2d) and min(module.in_channels, module.out_channels) < THIN:
                # Multiplications and additions, forward and twice in the backward pass.
                thin.append(3 * 2 * output.numel() * module.weight[0].numel())

        handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def describe_layer(module: nn.Module) -> str:
    """`Conv2d 5x5 /2` for a stride of two; other layers by their class."""
    kind = type(module).__name__.lstrip("_")
    size, stride = getattr(module, "kernel_size", None), getattr(module, "stride", None)
    if size is None:
        return kind
    height, width = size if isinstance(size, tuple) else (size, size)
    step = stride[0] if isinstance(stride, tuple) else stride
    return f"{kind} {height}x{width}" + (f" /{step}" if step not in (None, 1) else "")


class Kept:
    """What the forward pass keeps for the backward pass: each memory once, the model's own not at all."""

    def __init__(self, net: nn.Module) -> None:
        self._storages = {_key(t): t.untyped_storage() for t in (*net.parameters(), *net.buffers())}
        self._own = set(self._storages)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        def pack(tensor: Tensor) -> Tensor:
            self._storages[_key(tensor)] = tensor.untyped_storage()  # held, so that no other gets its key
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    @property
    def nbytes(self) -> int:
        return sum(storage.nbytes() for key, storage in self._storages.items() if key not in self._own)


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
