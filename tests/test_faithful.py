"""The homework's own loop, written here from PyTorch alone, beside a run of the preset: the same bits.

Nothing of `ml` shapes the reference: its network, its images and its loop are those of the class's notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ml.catalog import MODELS
from ml.events import Points, Snapshot
from ml.models import build_model
from ml.presets import HOMEWORK, homework
from ml.spec import RunSpec
from ml.train import train
from tests.test_train import digits

# The number of threads shapes the bits.
pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES, EPOCHS, SEED = 300, 2, 7  # batches of 64, 64, 64, 64 and a ragged one of 44


class LeNet(nn.Module):
    """As the homework prints it: no padding, sigmoid, max-pooling, PyTorch's own initial weights."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 6, 5),
            activation(),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(6, 16, 5),
            activation(),
            nn.MaxPool2d(2, 2),
        )
        self.fc = nn.Sequential(
            nn.Linear(16 * 4 * 4, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).view(x.shape[0], -1))
        return logits


def chosen_images() -> tuple[Tensor, Tensor]:
    """The training images that a run with this seed and size draws, uint8, and their labels."""
    data = digits()
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(SEED))[:IMAGES]
    return data.train_images[order], data.train_labels[order]


def homework_loop(
    make_net: Callable[[], nn.Module], inputs: Tensor, labels: Tensor, **sgd: Any
) -> tuple[nn.Module, list[float]]:
    """The notebook's cell: DataLoader, cross-entropy, SGD at 0.01, batches of 64."""
    torch.manual_seed(SEED)
    net = make_net()
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=64, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, **sgd)
    losses = []
    for _ in range(EPOCHS):
        for x, y in loader:
            output = net(x)
            loss = criterion(output, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return net, losses


def assert_same_training(spec: RunSpec, reference: nn.Module, losses: list[float]) -> None:
    """Every loss, and every parameter after the last step, bit for bit; in the order in which they are registered."""
    found: list[float] = []
    state: dict[str, Tensor] = {}
    for event in train(spec, digits(), device=torch.device("cpu")):
        if isinstance(event, Points):
            found += event.values["train/loss"]
        elif isinstance(event, Snapshot):
            state = event.state["model"]
    assert len(losses) == EPOCHS * 5
    assert found == losses
    wanted = reference.state_dict()
    assert len(state) == len(wanted)
    for (name, mine), (_, theirs) in zip(state.items(), wanted.items(), strict=True):
        assert torch.equal(mine, theirs), name


def spec_of(**change: Any) -> RunSpec:
    """A run of the homework's preset, except for its size and data, and what a test changes."""
    run = next(r for r in homework(epochs=EPOCHS, train_size=IMAGES).runs if r.spec["model"] == "lenet")
    return RunSpec(**{**run.spec, "dataset": "digits", "val_size": 20, "seed": SEED, **change})


SCALINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "raw": lambda pixels: pixels.float(),
    "unit": lambda pixels: pixels.float() / 255,  # what torchvision's ToTensor does
    "standardize": lambda pixels: (pixels.float() / 255 - digits().mean[0]) / digits().std[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_preset_is_the_homeworks_loop_to_the_last_bit(scaling: str) -> None:
    pixels, labels = chosen_images()
    reference, losses = homework_loop(LeNet, SCALINGS[scaling](pixels), labels)
    assert_same_training(spec_of(input_scaling=scaling), reference, losses)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_momentum_and_weight_decay_have_the_homeworks_bits(activation: str) -> None:
    pixels, labels = chosen_images()
    kind = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}[activation]
    reference, losses = homework_loop(
        lambda: LeNet(kind), SCALINGS["unit"](pixels), labels, momentum=0.9, weight_decay=5e-4
    )
    change = {"momentum": 0.9, "weight_decay": 5e-4, "model_options": {"activation": activation}}
    assert_same_training(spec_of(**change), reference, losses)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("model", ["alexnet", "resnet8"])
def test_the_homeworks_other_networks_have_its_bits_too(model: str, momentum: float) -> None:
    """The loop is the reference's; these two networks are ours, as the homework names them and prints no code."""
    pixels, labels = chosen_images()
    spec = spec_of(model=model, model_options={}, momentum=momentum)

    def make_net() -> nn.Module:
        return build_model(model, MODELS[model].options(), (1, 28, 28), 10)

    reference, losses = homework_loop(make_net, SCALINGS["unit"](pixels), labels, momentum=momentum)
    assert_same_training(spec, reference, losses)


def test_the_references_numbers_are_the_presets() -> None:
    assert {name: HOMEWORK[name] for name in ("batch_size", "lr", "optimizer", "momentum", "weight_decay")} == {
        "batch_size": 64, "lr": 0.01, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0
    }  # fmt: skip
    assert RunSpec(**homework().specs[0]).epochs == 32
