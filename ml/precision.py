"""Which models bfloat16 pays for: the table behind `precision: auto`. Knows no torch.

benchmarks/training.py, two Zen 4 cores with avx512_bf16, batch 64, one thread, against the homework's fp32 loop in the
same run: with channels-last memory AlexNet trains 2.1 and ResNet-8 1.6 times as fast (docs/training.md). LeNet is
slower: its convolutions have 1 and 6 input channels, which leave most of a bf16 instruction empty, and casting its
weights costs as much as its linear layers. On a GPU such nets wait for their kernels to start, whatever these compute.
"""

from __future__ import annotations

from collections.abc import Iterable

from ml.spec import RunSpec

FP32_MODELS = frozenset(("lenet", "mlp"))  # too small; every other model is a convolutional net that gains


def gains_from_bf16(model: str) -> bool:
    """Whether bf16 is the faster format where the hardware multiplies it natively."""
    return model not in FP32_MODELS


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
