"""What the server says of runs and series, as typed values.

Unknown fields are kept, so that a newer server is no error. NaN and infinities travel as strings and are
floats here.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ENDED = ("finished", "failed", "canceled")
State = Literal["queued", "running", "paused", "finished", "failed", "canceled"]


class Summary(BaseModel):
    """One metric of a run in numbers; steps count from 1."""

    model_config = ConfigDict(extra="allow", frozen=True, ser_json_inf_nan="strings")

    count: int = 0
    nonfinite: int = 0
    last: float | None = None
    last_step: int | None = None
    min: float | None = None
    min_step: int | None = None
    max: float | None = None
    max_step: int | None = None


class Run(BaseModel):
    """A run as it was when the server answered. `progress` is 0 to 1, `eta_s` in seconds."""

    model_config = ConfigDict(extra="allow", frozen=True, ser_json_inf_nan="strings")

    id: str
    name: str
    state: State
    kind: str = "training"
    url: str = ""
    experiment: str | None = None
    tags: list[str] = Field(default_factory=list)
    model: str | None = None
    dataset: str | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    attempt: int = 0
    worker: str | None = None
    phase: str = ""
    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    steps_per_epoch: int | None = None
    progress: float | None = None
    eta_s: float | None = None
    steps_per_s: float | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    updated_at: datetime | None = None
    error: str | None = None
    cursor: int = 0
    summary: dict[str, Summary] = Field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Finished, failed or canceled: it will not go on by itself, nor by resume unless asked to."""
        return self.state in ENDED

    def last(self, metric: str) -> float | None:
        """The newest value of a metric, None when there is none."""
        found = self.summary.get(metric)
        return found.last if found is not None else None


class Series(BaseModel):
    """Points of one metric of one run: real ones, in order, `returned` of `total`."""

    model_config = ConfigDict(extra="allow", frozen=True, ser_json_inf_nan="strings")

    run: str
    metric: str
    step: list[int]
    x: list[float] = Field(default_factory=list)
    time: list[float] = Field(default_factory=list)
    value: list[float]
    total: int | None = None
    returned: int | None = None
    cursor: int | None = None


class Event(BaseModel):
    """One message of the live stream.

    `run`: `.run` is the run's new state. `points`: `.series` holds new points. `resync`: too far behind, read
    the series of `.run_id` again. `gone`: `.run_id` was deleted.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["run", "points", "resync", "gone"]
    id: str
    run_id: str | None = None
    run: Run | None = None
    series: list[Series] = Field(default_factory=list)


def plain(value: float) -> float | str:
    """A number as JSON can carry it: NaN and the infinities become their names."""
    number = float(value)
    if math.isnan(number):
        return "NaN"
    return number if math.isfinite(number) else ("Infinity" if number > 0 else "-Infinity")
