"""A training step as one CUDA graph, for nets whose kernels are shorter than the time it takes to start them.

LeNet's step is some hundred kernels of a few microseconds. Recorded once and replayed, the host starts them all with a
single call. See https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture for the rules.

Written from that documentation: no GPU has run it yet. `compile: graph` asks for it, auto does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], tuple[Tensor, bool]]
WARM_UP = 3  # steps before the recording, in which kernels are chosen and the optimizer makes its state
AHEAD = 8  # replays that may wait for the GPU: enough to keep it busy, and few enough for a cancel to take effect soon


class Recorded:
    """`step` with the same effect, called with full batches of `batch_size` and, eagerly, with a last smaller one.

    The warm-up steps are steps of the training, so that a run has the same steps in a graph as without. What changes
    between steps must be tensors that stay in their place: images and labels here, the rate in the optimizer.
    """

    def __init__(self, step: Step, batch_size: int) -> None:
        self._step, self._batch_size = step, batch_size
        self._warm_up = WARM_UP
        self._side: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x = self._y = self._numbers = torch.empty(0)
        self._ahead: deque[torch.cuda.Event] = deque()

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, bool]:
        if len(x) != self._batch_size:
            return self._step(x, y)
        if self._side is None:
            self._side = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        if self._warm_up:
            self._warm_up -= 1
            return self._step_aside(x, y, self._side)
        if self._graph is None:
            self._graph = self._record(x, y, self._side)
        done = self._ahead.popleft()
        done.synchronize()  # at once until AHEAD replays have been handed over
        self._x.copy_(x)
        self._y.copy_(y)
        self._graph.replay()
        done.record(torch.cuda.current_stream(x.device))
        self._ahead.append(done)
        return self._numbers.clone(), True  # the next replay writes over them

    def _step_aside(self, x: Tensor, y: Tensor, side: torch.cuda.Stream) -> tuple[Tensor, bool]:
        """On the stream of the recording, as the work that precedes it has to be."""
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):
            done = self._step(x, y)
        torch.cuda.current_stream(x.device).wait_stream(side)
        return done

    def _record(self, x: Tensor, y: Tensor, side: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        """Record a step without doing it; its gradients get memory that belongs to the graph."""
        self._x, self._y = torch.empty_like(x), torch.empty_like(y)
        self._ahead.extend(torch.cuda.Event(blocking=True) for _ in range(AHEAD))  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            self._numbers, _ = self._step(self._x, self._y)
        return graph
