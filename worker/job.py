"""What a supervisor tells a trainer, as one line of JSON on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Job:
    """One attempt. `seq` is the last flush of the attempts before it; `log` takes the trainer's output.

    `slots` has one entry a GPU where the run takes several, otherwise one.
    """

    run_id: str
    attempt: int
    seq: int
    slots: list[int]
    worker: str
    spec: dict[str, Any]
    checkpoint: dict[str, Any] | None
    log: str

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        return cls(**json.loads(line))
