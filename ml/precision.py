"""Which models bfloat16 pays for: the table behind `precision: auto`. Knows no torch.

Figures are CPU time against fp32 on two Zen 4 cores with avx512_bf16, batch 64, one thread (docs/training.md). LeNet's
convolutions have 1 and 6 input channels, which leave most of a bf16 instruction empty, and casting its weights costs as
much as its linear layers. No GPU has been measured: there such nets wait for their kernels to start, whatever these
compute, and large ones follow published work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml.spec import RunSpec


@dataclass(frozen=True)
class Entry:
    """`bf16`: what auto is where the hardware multiplies it. `measured`: by us; the others are taken as their like."""

    bf16: bool
    measured: bool
    why: str


TABLE: Mapping[str, Entry] = {
    "lenet": Entry(
        False, True, "training 0.98 to 1.11 times as fast, evaluation 0.7: no gain for the bits of fp32"
    ),
    "mlp": Entry(
        False, True, "training 0.87 to 1.29 times as fast, evaluation 1.3: too little for the bits of fp32"
    ),
    "alexnet": Entry(True, True, "training 2.0 times as fast as the homework's fp32 loop, evaluation 2.7"),
    "alexnet224": Entry(True, False, "wider layers than AlexNet-28's, and larger images"),
    "resnet8": Entry(True, True, "training 1.9 times as fast as the homework's fp32 loop, evaluation 2.3"),
    "resnet20": Entry(True, True, "training 2.1 times as fast"),
    "resnet56": Entry(True, False, "ResNet-20's layers, more of them"),
    "resnet18": Entry(True, True, "training 2.2 times as fast as the homework's fp32 loop"),
    "resnet34": Entry(True, False, "ResNet-18's layers, more of them"),
    "resnet50": Entry(True, False, "1x1 convolutions beside ResNet-18's, with more channels"),
    "resnet18-pretrained": Entry(True, False, "ResNet-18's layers, on larger images"),
}


def gains_from_bf16(model: str) -> bool:
    """Whether bf16 is the faster format where the hardware multiplies it natively."""
    return TABLE[model].bf16


def share_precision(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Specs of runs that will be held against each other: no two of them compute in different formats.

    Auto is fp32 for all where it would not come to the same for all models.
    """
    found = list(specs)
    if len({gains_from_bf16(spec.model) for spec in found}) < 2:
        return found
    return [
        spec.model_copy(update={"precision": "fp32"}) if spec.precision == "auto" else spec for spec in found
    ]
