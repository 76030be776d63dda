"""Early stopping: whether validation still gets better. Pure, so that a resumed run goes on counting."""

from __future__ import annotations

from typing import NamedTuple

from ml.spec import RunSpec


class Patience(NamedTuple):
    """The best validation result so far and its epoch (0: none yet), and how many epochs since were no better."""

    best: float | None = None
    best_epoch: int = 0
    waited: int = 0


def look(spec: RunSpec, so_far: Patience, epoch: int, loss: float, accuracy: float) -> Patience:
    """What is known after this epoch's validation. A result that is no number is never better."""
    value = loss if spec.patience_metric == "loss" else accuracy
    best = so_far.best
    if value == value and (
        best is None or (value < best if spec.patience_metric == "loss" else value > best)
    ):
        return Patience(value, epoch, 0)
    return so_far._replace(waited=so_far.waited + 1)


def reason_to_stop(spec: RunSpec, so_far: Patience) -> str | None:
    """Why the run ends here; None when it goes on."""
    if spec.patience is None or so_far.waited < spec.patience:
        return None
    metric = f"val/{spec.patience_metric}"
    if so_far.best is None:
        return f"stopped early: {metric} was never a number, with a patience of {spec.patience}"
    return (
        f"stopped early: {metric} has been no better since epoch {so_far.best_epoch} ({so_far.best:.6g}), "
        f"with a patience of {spec.patience}"
    )
