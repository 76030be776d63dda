"""One run on several devices: what its processes tell each other. A run on one device has a crew of one.

Each of N ranks holds the whole model and trains a share of every batch; DistributedDataParallel averages their
gradients in the backward pass (Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel
Training"). Shares are weighted by their sizes and batch normalisation takes its statistics over all of them
(`ml.sync_norm`), so that the training is the one of a single process at the same batch size, but for rounding, and but
for what dropout and augmentation draw: there every rank has a stream of its own.

Rank 0 leads: it draws the order, evaluates, reports and takes snapshots. Between two steps it says what is next
(`Word`); the others stand by for it, so they can be asked for their generators, or dismissed, at any time.

B batch, N ranks.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ml.generators import put_states, seed_generators, take_states
from ml.sync_norm import synchronise

APART = 1_000_003  # between the seeds of two ranks; a prime beyond the seeds that people choose
STAND_BY = timedelta(days=30)  # rank 0 may evaluate or download for long, and a supervisor watches over it


class Dismissed(Exception):
    """Rank 0 has said that the training is over."""


class Word(IntEnum):
    """What rank 0 tells the others between two steps."""

    GO = 0  # the next step, or what `share` hands out
    STATES = 1  # hand in your generators
    LEAVE = 2


class Crew:
    """A run's only process: it leads, has all of each batch, and nobody to talk to."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def synchronise(self, model: nn.Module) -> nn.Module:
        """The model with what must know of the other ranks, before there is an optimizer for it."""
        return model

    def join(self, model: nn.Module, seed: int) -> nn.Module:
        """The model as the loop calls it, with rank 0's weights; from here on every rank has draws of its own."""
        return model

    def go(self) -> None:
        """Before each step: rank 0 says that there is one."""

    def share(self, whole: Tensor) -> Tensor:
        """Rank 0's tensor, on every rank."""
        return whole

    def share_text(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        return text

    def part(self, batch: Tensor) -> Tensor:
        """This rank's share of a batch, [B] -> [about B / N]."""
        return batch

    def weigh(self, loss: Tensor) -> Tensor:
        """The mean loss of this rank's share, so that the ranks' average gradient is that of the batch's mean."""
        return loss

    def average(self, means: Tensor) -> Tensor:
        """[M] means over the last share -> means over the batch, on every rank."""
        return means

    def take_states(self, device: torch.device) -> dict[str, Any]:
        """Where the generators stand, on all ranks; rank 0 may ask whenever the others stand by."""
        return take_states(device)

    def put_states(self, states: Mapping[str, Any], device: torch.device) -> None:
        put_states(states, device)


class Ranks(Crew):
    """One of `size` processes; the process group must have been initialised (`worker.ranks`)."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        super().__init__(rank, size)
        self._device = device
        self._weight = 1.0  # of the last share, times N over B: 1 where all are equal
        words = dist.new_group(backend="gloo", timeout=STAND_BY)  # on the CPU: no step waits for a GPU
        assert isinstance(words, dist.ProcessGroup)
        self._words = words

    def synchronise(self, model: nn.Module) -> nn.Module:
        return synchronise(model, self._device)

    def join(self, model: nn.Module, seed: int) -> nn.Module:
        """Wrapped: its backward pass averages the gradients.

        Buffers are not sent around each step: those of batch normalisation are the same everywhere.
        """
        wrapped: nn.Module = DistributedDataParallel(model, forward_sync_buffers=False)
        if not self.leads:
            seed_generators((seed + self.rank * APART) % 2**32)
        return wrapped

    def meet(self, pid: int) -> list[int]:
        """The process ids of all ranks, from each its own."""
        found = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(found, torch.tensor([pid]), group=self._words)
        return [int(one) for one in found]

    # -- between two steps ----------------------------------------------------------------------------------------

    def go(self) -> None:
        if self.leads:
            self._say(Word.GO)
        else:
            self.stand_by()

    def share(self, whole: Tensor) -> Tensor:
        self.go()
        size = torch.tensor(len(whole))
        dist.broadcast(size, 0, group=self._words)
        found = whole.cpu() if self.leads else torch.empty(int(size), dtype=whole.dtype)
        dist.broadcast(found, 0, group=self._words)
        return found.to(whole.device)

    def share_text(self, text: str) -> str:
        return bytes(self.share(_bytes(text.encode())).tolist()).decode()

    def stand_by(self) -> None:
        """The others: do as rank 0 says until it says GO. Raises: Dismissed."""
        word = torch.empty((), dtype=torch.int64)
        while True:
            dist.broadcast(word, 0, group=self._words)
            if word == Word.LEAVE:
                raise Dismissed
            if word == Word.GO:
                return
            self._hand_in()

    def dismiss(self) -> None:
        """Rank 0: the training is over, whatever has become of it."""
        self._say(Word.LEAVE)

    def _say(self, word: Word) -> None:
        dist.broadcast(torch.tensor(int(word)), 0, group=self._words)

    # -- a step ---------------------------------------------------------------------------------------------------

    def part(self, batch: Tensor) -> Tensor:
        """Every N-th image; all of a batch that is smaller than the crew, or some would have nothing to do."""
        if len(batch) < self.size:
            self._weight = 1.0
            return batch
        share = batch[self.rank :: self.size]
        self._weight = len(share) * self.size / len(batch)
        return share

    def weigh(self, loss: Tensor) -> Tensor:
        return loss * self._weight

    def average(self, means: Tensor) -> Tensor:
        total = means * (self._weight / self.size)
        dist.all_reduce(total)
        return total

    # -- generators -----------------------------------------------------------------------------------------------

    def take_states(self, device: torch.device) -> dict[str, Any]:
        self._say(Word.STATES)
        others = []
        for rank in range(1, self.size):
            size = torch.empty((), dtype=torch.int64)
            dist.recv(size, rank, group=self._words)
            packed = torch.empty(int(size), dtype=torch.uint8)
            dist.recv(packed, rank, group=self._words)
            others.append(torch.load(io.BytesIO(bytes(packed.tolist())), weights_only=True))
        return {**take_states(device), "others": others}

    def _hand_in(self) -> None:
        buffer = io.BytesIO()
        torch.save(take_states(self._device), buffer)
        packed = _bytes(buffer.getvalue())
        dist.send(torch.tensor(len(packed)), 0, group=self._words)
        dist.send(packed, 0, group=self._words)

    def put_states(self, states: Mapping[str, Any], device: torch.device) -> None:
        put_states(states if self.leads else states["others"][self.rank - 1], device)


def _bytes(text: bytes) -> Tensor:
    """[len] uint8, in memory of its own."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)


ALONE = Crew()
