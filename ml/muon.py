"""Muon for the hidden layers, AdamW for all else, as one optimizer.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks": the momentum of a weight matrix is made
nearly orthogonal before it is applied. PyTorch's own `torch.optim.Muon` does that for matrices; a convolution's weight
[out, in, k, k] is one of out rows here, as the authors do for images. The first and the last layer, biases and
normalisation get AdamW. The step is scaled as in "Muon is scalable for LLM training" (Liu et al. 2025), so that one
learning rate serves both.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW:
    """What the training loop needs of an optimizer: groups with a rate, `zero_grad`, `step` and its state."""

    def __init__(
        self, model: nn.Module, *, lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        self._hidden = hidden_weights(model)
        chosen = {id(weight) for weight in self._hidden}
        others = [p for p in model.parameters() if id(p) not in chosen]
        # Matrices of their own: a weight in channels-last order has no view as one.
        self._matrices = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in self._hidden]
        self._muon = torch.optim.Muon(
            self._matrices,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def zero_grad(self) -> None:
        for weight in chain(self._hidden, *(group["params"] for group in self._adamw.param_groups)):
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for weight, matrix in zip(self._hidden, self._matrices, strict=True):
            matrix.copy_(weight.flatten(1))
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()
        for weight, matrix in zip(self._hidden, self._matrices, strict=True):
            weight.copy_(matrix.view(weight.shape))

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])


def hidden_weights(model: nn.Module) -> list[Tensor]:
    """The weights of all convolutions and linear layers but the first and the last."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [layer.weight for layer in layers[1:-1]]
