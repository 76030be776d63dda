"""Numbers on their way from a device to the host, which does not wait for them."""

from __future__ import annotations

import torch
from torch import Tensor


class Copy:
    """A tensor that is being copied to the CPU. From a GPU into pinned memory, behind the work that is queued there."""

    def __init__(self, source: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._host = source
        if source.device.type == "cuda":
            self._host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            self._host.copy_(source, non_blocking=True)
            # Who waits for it sleeps, where a core would spin.
            self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(source.device))

    def has_arrived(self) -> bool:
        return self._done is None or bool(self._done.query())  # type: ignore[no-untyped-call]

    def read(self) -> list[list[float]]:
        """Its rows; waits for them."""
        if self._done is not None:
            self._done.synchronize()
        rows: list[list[float]] = self._host.tolist()
        return rows
