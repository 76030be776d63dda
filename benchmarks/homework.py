"""The homework's own loops, that everything is measured against: DataLoader, fp32, a print every step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TextIO

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ml.catalog import MODELS
from ml.data import Split
from ml.models import build_model
from ml.models.pooling import MaxPool2d
from ml.spec import RunSpec


class Homework:
    """One model with its loaders. Images are float32 in memory already: a loader that decodes files is slower."""

    def __init__(self, spec: RunSpec, data: Split, out: TextIO) -> None:
        torch.manual_seed(spec.seed)
        options = MODELS[spec.model].options.model_validate(spec.model_options)
        self.model = with_own_pooling(build_model(spec.model, options, data.shape, data.classes))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
        self.loss = nn.CrossEntropyLoss()
        self.out = out
        size = spec.train_size or len(data.train_images)
        train = TensorDataset(as_float(data, data.train_images[:size]), data.train_labels[:size])
        val = TensorDataset(as_float(data, data.val_images), data.val_labels)
        self.train_loader = DataLoader(train, spec.batch_size, shuffle=True)
        self.val_loader = DataLoader(val, spec.batch_size)

    def train(self) -> Iterator[int]:
        """Train for ever; yields the images of each step."""
        for epoch in count(1):
            self.model.train()
            for x, y in self.train_loader:
                self.optimizer.zero_grad()
                loss = self.loss(self.model(x), y)
                loss.backward()
                self.optimizer.step()
                print(epoch, loss, file=self.out)
                yield len(y)

    def evaluate(self) -> float:
        """Accuracy on the validation images."""
        self.model.eval()
        correct = total = 0
        with torch.no_grad():
            for x, y in self.val_loader:
                correct += (self.model(x).argmax(1) == y).sum().item()
                total += len(y)
        return correct / total


def with_own_pooling(model: nn.Module) -> nn.Module:
    """The zoo's nets with `nn.MaxPool2d` for the zoo's own, as a homework has it."""
    for name, child in model.named_children():
        if isinstance(child, MaxPool2d):
            setattr(model, name, nn.MaxPool2d(2))
    return model


def as_float(data: Split, images: Tensor) -> Tensor:
    """uint8 -> float32 of mean 0 and deviation 1, as ToTensor and Normalize do it."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    return images.float().div_(255).sub_(mean).div_(std)
