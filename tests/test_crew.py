"""One run on two processes beside the same run on one: the same training, but for rounding."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from ml.crew import Crew, Dismissed, Ranks
from ml.data import load_dataset
from ml.events import Evaluated, Points, Snapshot
from ml.generators import seed_generators
from ml.setup import prepare
from ml.spec import RunSpec
from ml.sync_norm import synchronise
from ml.train import train
from tests.asking import AskAt
from tests.bits import assert_same_bits

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
CPU = torch.device("cpu")
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
# 2 epochs of batches of 16, 16, 16 and 1: an odd share, and one that is smaller than the crew.
SMALL: dict[str, Any] = {"dataset": "digits", "train_size": 49, "val_size": 30, "epochs": 2, "batch_size": 16,
                         "precision": "fp32"}  # fmt: skip
SPECS: dict[str, dict[str, Any]] = {
    "lenet": {**SMALL, "model": "lenet", "model_options": {"activation": "relu"}, **SGD},
    "uneven": {**SMALL, "model": "lenet", "model_options": {"activation": "relu"}, **SGD, "batch_size": 15},
    "clipped": {**SMALL, "model": "mlp", **SGD, "clip_norm": 0.5, "ema": 0.9, "nesterov": True},
    "alexnet": {**SMALL, "model": "alexnet", "model_options": {"dropout": 0.0}, **SGD, "lr": 0.01},
    # Batch normalisation over both. The step is short, as of its 600,000 values a ReLU always sees some on the edge of
    # zero: rounding puts them on one side or the other, and the larger the step, the further that takes the next one.
    # No batch of one image: its deviations are nearly zero. In float64 it is compared below.
    "norm": {**SMALL, "model": "resnet8", **SGD, "lr": 0.001, "train_size": 48},
}
DRAWS = {
    **SMALL,
    "model": "alexnet",
    "optimizer": "adamw",
    "lr": 0.001,
    "shift": 2,
    "flip": True,
    "cutout": 8,
}


class Trained(NamedTuple):
    """What a training came to: losses and accuracies by step, evaluations, and its snapshots."""

    losses: list[float]
    accuracies: list[float]
    evaluations: list[tuple[float, float]]
    snapshots: list[dict[str, Any]]


def collect(
    spec: RunSpec,
    crew: Crew,
    device: torch.device = CPU,
    resume: Mapping[str, Any] | None = None,
    ask_at: int = 0,
) -> Trained:
    """Train to the end; ask for a snapshot after step `ask_at`."""
    found, wanted = Trained([], [], [], []), AskAt(ask_at)
    data = load_dataset("digits", Path("nowhere"))
    for event in train(
        spec, data, device=device, resume=resume, snapshot_requested=wanted, report_every_s=0, crew=crew
    ):
        if isinstance(event, Points):
            found.losses.extend(event.values["train/loss"])
            found.accuracies.extend(event.values["train/accuracy"])
        elif isinstance(event, Evaluated):
            found.evaluations.append((event.loss, event.accuracy))
        elif isinstance(event, Snapshot):
            found.snapshots.append(event.state)
    return found


def work(rank: int, folder: str, specs: dict[str, dict[str, Any]], backend: str = "gloo") -> None:
    """One of two processes: each spec whole, then from its first snapshot; rank 0 keeps what came of it. On the CPU,
    with "nccl" on a GPU each."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    device = CPU
    if backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    torch.save(normalise_part(rank, device), Path(folder, f"norm-{rank}.pt"))
    for name, fields in specs.items():
        spec = RunSpec(**fields, devices=2)
        path = Path(folder, f"{name}.pt")
        for resume in (False, True):
            crew = Ranks(rank, 2, device)
            state = torch.load(path, weights_only=True)[3][0] if resume else None
            try:
                found = collect(spec, crew, device, state, ask_at=2 if rank == 0 else 0)
                if crew.leads:
                    torch.save(tuple(found), path.with_suffix(".resumed.pt") if resume else path)
                    crew.dismiss()
                else:
                    crew.stand_by()
            except Dismissed:
                pass
    dist.destroy_process_group()


def normalise(
    layer: nn.Module, images: torch.Tensor, part: slice = slice(None), device: torch.device = CPU
) -> list[torch.Tensor]:
    """Two passes in float64: outputs, gradients of inputs and parameters, and what it remembers."""
    layer = layer.double().to(device).train()
    x = images[part].to(device, copy=True).requires_grad_()
    weights = torch.linspace(-1, 1, images.numel(), dtype=torch.float64).view_as(images)[part].to(device)
    for _ in range(2):
        y = layer(x)
        (y.pow(3) * weights).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    remembered = [layer.running_mean, layer.running_var]
    return [tensor.detach().cpu() for tensor in (y, x.grad, *gradients, *remembered)]


def some_images() -> torch.Tensor:
    return torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 2


def normalise_part(rank: int, device: torch.device) -> list[torch.Tensor]:
    layer = synchronise(nn.Sequential(nn.BatchNorm2d(3)), device).get_submodule("0")
    return normalise(layer, some_images(), slice(0, 2) if rank == 0 else slice(2, 5), device)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crew")
    spawn(work, (str(folder), {**SPECS, "draws": DRAWS}), nprocs=2)  # type: ignore[no-untyped-call]
    return folder


def read(path: Path) -> Trained:
    return Trained(*torch.load(path, weights_only=True))


def first_weights(spec: RunSpec) -> dict[str, torch.Tensor]:
    seed_generators(spec.seed)
    state = prepare(spec, load_dataset("digits", Path("nowhere")), CPU).model.state_dict()
    return {key: value.clone() for key, value in state.items()}


@pytest.mark.parametrize("name", SPECS)
def test_two_processes_train_what_one_does(together: Path, name: str) -> None:
    assert_trains_alike(read(together / f"{name}.pt"), collect(RunSpec(**SPECS[name]), Crew()), name)


def assert_trains_alike(both: Trained, alone: Trained, name: str) -> None:
    """The same losses, accuracies and evaluations, and weights that moved alike, to the rounding of sums in another
    order. Over seeds, weights moved apart by at most 3e-6 of their way, with batch normalisation 3e-3; by 0.3 where
    each process normalised its own images."""
    steps = 2 * math.ceil(SPECS[name]["train_size"] / SPECS[name]["batch_size"])
    assert len(both.losses) == len(alone.losses) == steps
    assert both.losses == pytest.approx(alone.losses, rel=1e-5)
    assert both.accuracies == pytest.approx(alone.accuracies, abs=1e-6)
    assert [e[0] for e in both.evaluations] == pytest.approx([e[0] for e in alone.evaluations], rel=1e-5)
    began, within = first_weights(RunSpec(**SPECS[name])), 2e-2 if name == "norm" else 1e-4
    assert_moved_alike(both.snapshots[-1]["model"], alone.snapshots[-1]["model"], began, within)
    if "ema" in SPECS[name]:
        found, wanted = (unwrapped(one.snapshots[-1]["averaged"]) for one in (both, alone))
        assert_moved_alike(found, wanted, began, within)


def unwrapped(averaged: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    inside = {key: value for key, value in averaged.items() if key.startswith("module.")}
    return {key.removeprefix("module."): value for key, value in inside.items()}


def assert_moved_alike(
    found: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    began: Mapping[str, torch.Tensor],
    within: float,
) -> None:
    """Each tensor's way from where it began is the wanted one, but for this part of its length; counters are equal."""
    assert found.keys() == wanted.keys() == began.keys()
    for key, first in began.items():
        if not first.is_floating_point():
            assert torch.equal(found[key], wanted[key]), key
            continue
        way, apart = (wanted[key] - first).norm(), (found[key] - wanted[key]).norm()
        assert way > 0, key
        assert apart < within * way, (key, float(apart / way))


@pytest.mark.parametrize("name", [*SPECS, "draws"])
def test_two_processes_resume_to_the_very_bits(together: Path, name: str) -> None:
    """From the middle of an epoch, with the generators of both, which draw dropout and augmentation apart."""
    assert_resumed(read(together / f"{name}.pt"), read(together / f"{name}.resumed.pt"))


def assert_resumed(whole: Trained, again: Trained) -> None:
    assert whole.snapshots[0]["step"] == 2
    assert again.losses == whole.losses[2:]
    assert again.evaluations == whole.evaluations
    assert_same_bits(again.snapshots[-1], whole.snapshots[-1])
    assert len(whole.snapshots[-1]["others"]) == 1


def test_shared_batch_normalisation_is_that_of_the_whole_batch(together: Path) -> None:
    """In float64, so that nothing but the mathematics counts; shares of two and three images."""
    assert_normalises(together)


def assert_normalises(folder: Path) -> None:
    wanted = normalise(nn.BatchNorm2d(3), some_images())
    parts = [torch.load(folder / f"norm-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert torch.allclose(torch.cat([part[0] for part in parts]), wanted[0], atol=1e-12)
    assert torch.allclose(torch.cat([part[1] for part in parts]), wanted[1], atol=1e-10)
    for i in (2, 3):  # each rank has its part of these, and DistributedDataParallel adds them up
        assert torch.allclose(parts[0][i] + parts[1][i], wanted[i], atol=1e-10)
    for part in parts:
        for i in (4, 5):
            assert torch.allclose(part[i], wanted[i], atol=1e-12)


def test_ranks_draw_apart(together: Path) -> None:
    last = read(together / "draws.pt").snapshots[-1]
    assert not torch.equal(last["rng"], last["others"][0]["rng"])


def test_a_crew_of_one_changes_nothing() -> None:
    model, batch, loss = nn.Linear(1, 1), torch.arange(5), torch.tensor(2.0)
    crew = Crew()
    assert crew.synchronise(model) is crew.join(model, 0) is model
    assert crew.part(batch) is crew.share(batch) is batch
    assert crew.weigh(loss) is crew.average(loss) is loss
    assert crew.leads


@pytest.mark.parametrize("b", [1, 2, 3, 4, 7, 64])
def test_shares_are_a_batch_and_their_weights_its_mean(b: int) -> None:
    """Without a process group: only what a rank computes by itself."""
    ranks = [object.__new__(Ranks) for _ in range(4)]
    for i, one in enumerate(ranks):
        one.rank, one.size = i, 4
    batch = torch.arange(b)
    parts = [one.part(batch) for one in ranks]
    if b >= 4:
        assert sorted(torch.cat(parts).tolist()) == batch.tolist()
    else:
        assert all(part is batch for part in parts)
    values = torch.randn(b, dtype=torch.float64)
    means = [one.weigh(values[part].mean()) for one, part in zip(ranks, parts, strict=True)]
    assert torch.allclose(torch.stack(means).mean(), values.mean())


def test_batch_normalisation_is_replaced_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    names, parameters = list(model.state_dict()), [id(p) for p in model.parameters()]
    assert synchronise(model, CPU) is model
    assert (list(model.state_dict()), [id(p) for p in model.parameters()]) == (names, parameters)
    assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
