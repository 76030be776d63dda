"""The numbers of the steps done since the last report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ml.events import Note, Points
from ml.spec import RunSpec
from ml.transfer import Copy


class LastLoss(NamedTuple):
    """The last step whose loss was a number (0: none yet), and that loss (None: a checkpoint that keeps none)."""

    step: int = 0
    loss: float | None = None


class NonFiniteLoss(ValueError):
    """The loss became NaN or infinite at `step`; `last` is the run's last finite one."""

    def __init__(self, step: int, loss: float, last: LastLoss, spec: RunSpec) -> None:
        super().__init__(explain(step, loss, last, _remedy(spec, last)))
        self.step, self.last = step, last


def explain(step: int, loss: float, last: LastLoss, remedy: str) -> str:
    if last.step == 0:
        return f"The loss became {loss} at step {step}; it never was a number. {remedy}"
    if last.loss is None:
        return f"The loss became {loss} at step {step}; it was a number until step {last.step}. {remedy}"
    return f"The loss became {loss} at step {step}; it was {last.loss:.4g} at step {last.step}. {remedy}"


def _remedy(spec: RunSpec, last: LastLoss) -> str:
    """What this spec can still change. To skip steps helps none that never had a loss, and no graph can."""
    if spec.input_scaling == "raw":
        return "Set input_scaling to standardize, or lower the learning rate (lr)."
    return (
        "Lower the learning rate (lr), or set clip_norm"
        if spec.clip_norm is None
        else "Lower the learning rate (lr), or clip_norm"
    ) + ("; on_nan continue leaves such steps out." if last.step and spec.compile != "graph" else ".")


@dataclass
class _Steps:
    """Consecutive steps; `rows` have a number a metric each, on the device until they are read."""

    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    rows: list[list[float]] | list[Tensor] = field(default_factory=list)
    copy: Copy | None = None


class Tally:
    """Collects one entry a step and gives them out as Points.

    On the CPU numbers are read at once: that is nearly free there. On a GPU it would wait for the device at
    every step, so they stay there; a report starts a copy of them and gives out those of the report before, which have
    arrived meanwhile.
    """

    def __init__(
        self,
        device: torch.device,
        report_every_s: float,
        names: Sequence[str] = ("train/loss", "train/accuracy"),
        spec: RunSpec | None = None,
        last_loss: LastLoss = LastLoss(),
    ) -> None:
        """`names` are those of a step's numbers, the loss first; `last_loss` is what a resumed run had."""
        self._on_cpu = device.type == "cpu"
        self._every_s = report_every_s
        self._names = tuple(names)
        self._spec = spec or RunSpec()
        self._reported_at = -math.inf  # so that the very first step is reported at once
        self.last_loss = last_loss  # of the steps given out
        self._has_skipped = False
        self._open = _Steps()
        self._copied: list[_Steps] = []

    def add(self, step: int, numbers: Tensor, lr: float, applied: bool = True) -> None:
        """Note a step that is done; `numbers` [M] have no graph; `applied`: its update was made."""
        now = self._open
        now.steps.append(step)
        now.times.append(time.time())
        now.rates.append(lr)
        now.rows.append(numbers.tolist() if self._on_cpu else numbers)  # type: ignore[arg-type]
        if not applied:
            now.skipped.append(step)

    def due(self) -> bool:
        """True when a report is due: the interval has passed, or the run ends as the loss is seen to be no number."""
        late = time.perf_counter() - self._reported_at >= self._every_s
        return late or (self._on_cpu and self._fails_at(self._open.rows[-1][0]))  # type: ignore[arg-type]

    def _fails_at(self, loss: float) -> bool:
        return self._spec.on_nan == "fail" and not math.isfinite(loss)

    def report(self, *, whole: bool = True) -> Iterator[Points | Note]:
        """Yield the steps since the last report, if any, up to the first at which the run fails.

        Unless it shall be `whole`, what a GPU has not sent yet comes with the next one.

        Raises:
            NonFiniteLoss: when asked for more after that step.
        """
        whole = whole or self._reported_at == -math.inf
        self._reported_at = time.perf_counter()
        if self._open.steps:
            if not self._on_cpu:
                self._open.copy = Copy(torch.stack(self._open.rows))  # type: ignore[arg-type]
            self._copied.append(self._open)
            self._open = _Steps()
        while self._copied and (whole or self._copied[0].copy is None or self._copied[0].copy.has_arrived()):
            yield from self._give_out(self._copied.pop(0))

    def _give_out(self, done: _Steps) -> Iterator[Points | Note]:
        rows: list[list[float]] = done.rows if done.copy is None else done.copy.read()  # type: ignore[assignment]
        losses = [row[0] for row in rows]
        bad = next((i for i, loss in enumerate(losses) if self._fails_at(loss)), None)
        count = len(rows) if bad is None else bad + 1
        columns = zip(*rows[:count], strict=True)
        values = {name: list(column) for name, column in zip(self._names, columns, strict=True)}
        yield Points(done.steps[:count], done.times[:count], values | {"train/lr": done.rates[:count]})
        finite = [i for i, loss in enumerate(losses[:bad]) if math.isfinite(loss)]
        if finite:
            self.last_loss = LastLoss(done.steps[finite[-1]], losses[finite[-1]])
        if bad is not None:
            raise NonFiniteLoss(done.steps[bad], losses[bad], self.last_loss, self._spec)
        if done.skipped and not self._has_skipped:
            self._has_skipped = True
            note = (
                f"the loss or its gradient was no number at step {done.skipped[0]:,}: "
                "such steps change no weight, and training goes on"
            )
            yield Note(note)
