"""How a run's arithmetic is carried out: what the spec's "auto" comes to, by tables and never by a measurement.

The same spec on the same kind of machine always comes to the same, so a run can be repeated. The reasons stand beside
each choice; the figures are from benchmarks/training.py on two Zen 4 cores. No GPU has run it yet: what is chosen there
follows published work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ml.precision import gains_from_bf16
from ml.spec import RunSpec
from ml.toolchain import find_toolchain


@dataclass(frozen=True)
class Numerics:
    """What was chosen. It changes the last digits at least, so a run keeps it when it is resumed.

    `fused`: the optimizer's fused kernels. `compile`: "off", "inductor" (torch.compile) or "graph" (CUDA graph).
    `deterministic`: on a GPU only kernels that repeat their bits, and true fp32 where fp32 is asked for.
    """

    precision: str
    channels_last: bool
    fused: bool
    compile: str
    deterministic: bool

    def facts(self) -> dict[str, Any]:
        """As a run's resolved facts and its checkpoints hold it."""
        return asdict(self)

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16"


BEFORE = Numerics("fp32", channels_last=False, fused=False, compile="off", deterministic=True)


def choose(spec: RunSpec, device: torch.device) -> Numerics:
    """What a new run gets on `device`.

    Raises:
        ValueError: the spec asks for a compilation that cannot be had here.
    """
    precision = spec.precision
    if precision == "auto":
        precision = "bf16" if gains_from_bf16(spec.model) and multiplies_bf16(device) else "fp32"
    bf16 = precision == "bf16"
    # Inductor compiles for 20 to 55 s and then gains little on a CPU. CUDA graphs wait for a GPU to prove them.
    compilation = "off" if spec.compile == "auto" else spec.compile
    chosen = Numerics(
        precision=precision,
        # bf16 kernels want their channels side by side (bf16 alone gains half); fp32 keeps the plain loop's bits.
        channels_last=_asked(spec.channels_last, bf16),
        # One pass over all weights: AdamW's step of ResNet-18 takes 13 ms for 70, SGD's of LeNet 43 us for 124. With
        # momentum it rounds otherwise than a plain loop, but bf16 does so anyway.
        # A graph needs the kernels that read the rate from a tensor, whatever was asked for; Muon has none.
        fused=spec.optimizer != "muon"
        and (compilation == "graph" or _asked(spec.fused, bf16 or keeps_its_bits_fused(spec))),
        compile=compilation,
        # The same seed, the same bits. Faster kernels that do not repeat theirs are for who asks: a CPU has none.
        deterministic=_asked(spec.deterministic, True),
    )
    missing = what_is_missing(chosen.compile, spec, device)
    if missing is not None:
        raise ValueError(f"compile {chosen.compile}: {missing}. Choose auto or off.")
    return chosen


def keep(state: Mapping[str, Any], spec: RunSpec, device: torch.device) -> tuple[Numerics, str | None]:
    """What a resumed run had, and why it cannot have all of it here (None: it can).

    Checkpoints from before the choice was kept were trained without any of it, bf16 apart.
    """
    if state.get("numerics") is None:
        bf16 = spec.precision == "bf16"
        return replace(BEFORE, precision="bf16" if bf16 else "fp32", channels_last=bf16), None
    kept = Numerics(**state["numerics"])
    missing = what_is_missing(kept.compile, spec, device)
    if missing is None:
        return kept, None
    note = f"goes on without compile {kept.compile}, as {missing}; last digits may differ from here on"
    return replace(kept, compile="off"), note


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware does: elsewhere bf16 is emulated and slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keeps_its_bits_fused(spec: RunSpec) -> bool:
    """Fused SGD without momentum and decay is the plain loop's, bit by bit (tests/test_numerics.py)."""
    return spec.optimizer == "sgd" and spec.momentum == 0 and spec.weight_decay == 0


def what_is_missing(compilation: str, spec: RunSpec, device: torch.device) -> str | None:
    """Why this kind of compilation cannot be had on this machine or for this spec; None when it can."""
    match compilation, device.type:
        case "inductor", _:
            tools = find_toolchain(device.type, os.environ)
            if not tools.has_compiler:
                return f"this worker has no {tools.language} compiler ({tools.compiler})"
            return None if tools.has_headers else f"this worker has no Python.h in {tools.headers}"
        case "graph", "cpu":
            return "CUDA graphs need a GPU"
        case "graph", _ if spec.devices > 1:
            return "a step that waits for other GPUs is not recorded"
        case "graph", _ if spec.optimizer == "muon":
            return "Muon cannot be recorded in a CUDA graph"
        case "graph", _ if spec.on_nan == "continue":
            return "a CUDA graph cannot skip an update, which on_nan continue asks for"
    return None


def use(chosen: Numerics, device: torch.device) -> None:
    """Set the switches of this process that the choice needs."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.deterministic = chosen.deterministic
    torch.backends.cudnn.benchmark = not chosen.deterministic
    allow_tf32(not chosen.deterministic)


def allow_tf32(allowed: bool) -> None:
    """Whether fp32 products on a GPU may round their factors to TF32, in matrices and in convolutions.

    By PyTorch's older switches: they set the newer ones (`fp32_precision`) along, but not the other way round, and once
    the two disagree, whoever reads an older one gets an error.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def _asked(field: str, auto: bool) -> bool:
    return auto if field == "auto" else field == "on"
