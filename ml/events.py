"""What `ml.train.train` yields, in the order in which it happens. Knows no torch.

    Prepared, then per epoch: Points..., Evaluating..., Evaluated, Snapshot; at the end Done.

A Snapshot may also come between any two of these where the consumer asked for one, a Note where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data and model are ready; the next event is the first step's.

    `start_step` steps are already done (0 in a new run). `resolved` is plain JSON: what the spec's "auto" and
    "all" came to, and the versions of everything that shapes the numbers. `note` says what a resumed run could not
    keep.
    """

    total_steps: int
    steps_per_epoch: int
    start_step: int
    parameters: int
    resolved: dict[str, Any]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Points:
    """Consecutive steps done since the last Points; all lists have one entry a step.

    `step` counts from 1; `time` is in Unix seconds; `values` maps `train/loss`, `train/accuracy` (of the
    step's own batch, 0..1), `train/lr` and the norms that the spec wants to their numbers, NaN and infinity included.
    """

    step: list[int]
    time: list[float]
    values: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a reader of the run's history should know, a sentence without its full stop."""

    text: str


@dataclass(frozen=True, slots=True)
class Evaluating:
    """The epoch's validation has begun or goes on: `done` of `total` images."""

    epoch: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Mean loss and accuracy (0..1) over the N validation images, after `step` steps.

    `predicted` is the class with the highest logit and `confidence` its softmax probability, both [N] in the
    order of the validation images, and so are `logits` [N, K]; `accuracy` is the share of `predicted` that equals the
    labels, exactly.
    """

    step: int
    epoch: int
    time: float
    loss: float
    accuracy: float
    predicted: NDArray[np.int64] = field(repr=False, compare=False)
    confidence: NDArray[np.float32] = field(repr=False, compare=False)
    logits: NDArray[np.float16] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a bit-identical continuation after `step` needs, copied to the CPU; see
    `ml.checkpoint`. `is_last`: nothing follows it."""

    step: int
    epoch: int
    state: dict[str, Any]
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The run is over: all epochs are trained and evaluated, or `reason` says why it stopped before."""

    step: int
    epoch: int
    reason: str


Event = Prepared | Points | Note | Evaluating | Evaluated | Snapshot | Done
