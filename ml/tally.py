"""The numbers of the steps done since the last report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from ml.events import Points


class NonFiniteLoss(ValueError):
    """The loss became NaN or infinite at `step`; `last_loss` is this attempt's last finite one, None if there
    is none."""

    def __init__(self, step: int, loss: float, last_loss: float | None) -> None:
        last = "it never was a number" if last_loss is None else f"it was {last_loss:.4g} just before"
        super().__init__(
            f"The loss became {loss} at step {step}; {last}. "
            f"Lower the learning rate, or standardize the input."
        )
        self.step, self.last_loss = step, last_loss


class Tally:
    """Collects one entry a step and gives them out as Points.

    On the CPU numbers are read at once: `.item()` is nearly free there. On a GPU it would wait for the device
    at every step, so the losses stay there and come over together at each report.
    """

    def __init__(self, device: torch.device, report_every_s: float) -> None:
        self._on_cpu = device.type == "cpu"
        self._every_s = report_every_s
        self._reported_at = -math.inf  # so that the very first step is reported at once
        self._last_loss: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._steps: list[int] = []
        self._times: list[float] = []
        self._lrs: list[float] = []
        self._losses: list[float] | list[Tensor] = []
        self._accuracies: list[float] | list[Tensor] = []

    def add(self, step: int, loss: Tensor, accuracy: Tensor, lr: float) -> None:
        """Note a step that is done; loss and accuracy are scalars without a graph."""
        self._steps.append(step)
        self._times.append(time.time())
        self._lrs.append(lr)
        self._losses.append(loss.item() if self._on_cpu else loss)  # type: ignore[arg-type]
        self._accuracies.append(accuracy.item() if self._on_cpu else accuracy)  # type: ignore[arg-type]

    def due(self) -> bool:
        """True when a report is due: the interval has passed, or the loss is seen to be no number."""
        late = time.perf_counter() - self._reported_at >= self._every_s
        return late or (self._on_cpu and not math.isfinite(self._losses[-1]))

    def report(self) -> Iterator[Points]:
        """Yield the steps since the last report, if any, up to the first whose loss is no number.

        Raises:
            NonFiniteLoss: when asked for more after that step.
        """
        losses, accuracies = _numbers(self._losses), _numbers(self._accuracies)
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        count = len(losses) if bad is None else bad + 1
        steps, times, lrs = self._steps[:count], self._times[:count], self._lrs[:count]
        self._clear()
        self._reported_at = time.perf_counter()
        if steps:
            values = {"train/loss": losses[:count], "train/accuracy": accuracies[:count], "train/lr": lrs}
            yield Points(steps, times, values)
        finite = losses[:bad]
        self._last_loss = finite[-1] if finite else self._last_loss
        if bad is not None:
            raise NonFiniteLoss(steps[bad], losses[bad], self._last_loss)


def _numbers(values: list[float] | list[Tensor]) -> list[float]:
    """Plain numbers; scalars on a GPU come over in one copy."""
    if values and isinstance(values[0], Tensor):
        return torch.stack(values).tolist()
    return values  # type: ignore[return-value]
