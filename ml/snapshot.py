"""What a bit-identical continuation needs, out of a run and back into it.

Weights, optimizer, generators, the epoch's order and the place in it: dropping any one of them changes the
bits. The learning rate is a function of the step, so schedules have no state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ml.setup import Setup
from ml.spec import RunSpec
from ml.stopping import Patience
from ml.tally import LastLoss

FORMAT = 1


class Place(NamedTuple):
    """Where a run stands: `position` batches of `epoch` are done, in `order` ([N] int64; None: not yet
    drawn)."""

    epoch: int = 1
    position: int = 0
    step: int = 0
    order: Tensor | None = None
    patience: Patience = Patience()
    last_loss: LastLoss = LastLoss()


def take_snapshot(spec: RunSpec, run: Setup, place: Place) -> dict[str, Any]:
    """A copy on the CPU of all that `restore` needs; `ml.checkpoint` writes it."""
    state: dict[str, Any] = _copied(
        {
            "format": FORMAT,
            "spec": spec.model_dump_json(),
            "data_digest": run.resolved["data_digest"],
            "model": run.model.state_dict(),
            "averaged": None if run.averaged is None else run.averaged.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            **run.crew.take_states(run.device),
            "threads": torch.get_num_threads(),
            "numerics": run.numerics.facts(),
            **place._asdict(),
        }
    )
    return state


def restore(state: Mapping[str, Any], spec: RunSpec, run: Setup) -> Place:
    """Put a snapshot's state into `run` and all generators; return where to go on.

    Sets the process's number of threads to the snapshot's, as another number changes the bits.

    Raises:
        ValueError: the snapshot is of another spec, other data or an unknown format.
    """
    if state.get("format") != FORMAT:
        raise ValueError(f"this checkpoint has format {state.get('format')!r}; this version reads {FORMAT}")
    if RunSpec.read_stored(json.loads(state["spec"])) != spec:
        raise ValueError("this checkpoint belongs to a run with another spec; start a new run instead")
    if state["data_digest"] != run.resolved["data_digest"]:
        raise ValueError(
            f"the data set has changed since this checkpoint (digest {state['data_digest']} then, "
            f"{run.resolved['data_digest']} now); start a new run instead"
        )
    torch.set_num_threads(state["threads"])
    run.resolved["threads"] = state["threads"]
    run.model.load_state_dict(state["model"])
    if run.averaged is not None:
        run.averaged.load_state_dict(state["averaged"])
    _restore_optimizer(run, state["optimizer"])
    run.crew.put_states(state, run.device)
    order = state["order"]
    return Place(
        state["epoch"],
        state["position"],
        state["step"],
        None if order is None else order.to(run.device),
        Patience(*state.get("patience", ())),
        # Checkpoints from before it was kept: of a run that ends at the first such loss, all were numbers up to there.
        LastLoss(*state.get("last_loss", (state["step"],))),
    )


def _restore_optimizer(run: Setup, state: dict[str, Any]) -> None:
    """Its moments; the rate stays the tensor that a CUDA graph reads, where it is one."""
    rates = [group["lr"] for group in run.optimizer.param_groups]
    run.optimizer.load_state_dict(state)
    for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"] = rate.fill_(group["lr"])


def _copied(value: Any) -> Any:
    """A deep copy with every tensor on the CPU, so that later steps cannot change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value
