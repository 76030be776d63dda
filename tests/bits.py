"""Whether two states of a training are the same, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def assert_same_bits(found: Any, wanted: Any, where: str = "state") -> None:
    """The same tensors, numbers and strings, however deep: weights, optimizer state, generators, order, place.

    Raises: AssertionError, with the place of the first difference.
    """
    if isinstance(wanted, torch.Tensor):
        assert isinstance(found, torch.Tensor), where
        assert found.dtype == wanted.dtype, where
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, Mapping):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_same_bits(found[key], wanted[key], f"{where}[{key!r}]")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same_bits(one, other, f"{where}[{index}]")
    else:
        assert found == wanted, where
