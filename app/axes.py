"""The x axes of a chart: what a step is in epochs, samples, clock time or time since the run began."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from app.chunks import Block, Floats, Ints
from app.models import Run

Axis: TypeAlias = Literal["step", "epoch", "samples", "time", "elapsed"]
CLOCKS = ("time", "elapsed")  # the axes that need the times of points


def x_values(axis: Axis, run: Run, block: Block) -> Floats | None:
    """One x a point [N], rising; None where the run does not know this axis."""
    if axis == "time":
        return np.maximum.accumulate(block.times)
    if axis == "elapsed":
        return np.maximum.accumulate(block.times) - (run.started_at or run.created_at)
    return x_of_steps(axis, run, block.steps)


def x_of_steps(axis: Axis, run: Run, steps: Ints) -> Floats | None:
    """As `x_values`, for the axes that follow from the step.

    `epoch` and `samples` need the number of steps and images in an epoch: a training knows them, an outside script may
    say `steps_per_epoch` and `batch_size` in its params.
    """
    if axis == "step":
        return steps.astype(np.float64)
    steps_per_epoch = run.steps_per_epoch or _positive(run, "steps_per_epoch")
    if axis == "epoch":
        return np.asarray(steps / steps_per_epoch, np.float64) if steps_per_epoch else None
    batch_size = _positive(run, "batch_size")
    if not batch_size:
        return None
    images = _positive(run.resolved, "train_images")
    if not (images and steps_per_epoch):
        return np.asarray(steps * batch_size, np.float64)
    whole, rest = np.divmod(steps, steps_per_epoch)
    return np.asarray(whole * images + rest * batch_size, np.float64)


def _positive(source: Run | dict[str, object], name: str) -> int:
    value = (source.spec if isinstance(source, Run) else source).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
