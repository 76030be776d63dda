"""A step as a CUDA graph: the same training as without, recorded once and replayed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ml.events import Prepared
from ml.graphs import WARM_UP
from tests.gpu.test_bits import assert_resumes
from tests.gpu.training import STEPS, run, small
from tests.test_crew import assert_moved_alike
from tests.test_train import ADAMW, SGD
from tests.test_zoo import fresh

# Eagerly the rate is a double, in a graph a float32 on the device; fused in both.
EAGER: dict[str, Any] = {"compile": "off", "fused": "on", "precision": "fp32"}
GRAPH = {**EAGER, "compile": "graph"}


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[torch.cuda.CUDAGraph]:
    """Every replay of a graph from now on."""
    seen, replay = [], torch.cuda.CUDAGraph.replay

    def noted(graph: torch.cuda.CUDAGraph) -> None:
        seen.append(graph)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", noted)
    return seen


@pytest.mark.parametrize(("name", "kind"), [("lenet", SGD), ("resnet8", ADAMW)], ids=["lenet", "resnet8"])
def test_a_graph_trains_as_eager_does(
    device: torch.device, replays: list[torch.cuda.CUDAGraph], name: str, kind: dict[str, Any]
) -> None:
    """The same losses, evaluations and weights but for rounding, while the rate changes at each step."""
    options = {"activation": "relu"} if name == "lenet" else {}
    eager, graph = (run(small(name, model_options=options, **kind, **way), device) for way in (EAGER, GRAPH))
    prepared = graph.events[0]
    assert isinstance(prepared, Prepared)
    assert (prepared.resolved["compile"], prepared.note) == ("graph", None)
    assert len(replays) == STEPS - 2 - WARM_UP  # two batches are smaller
    assert len({id(graph) for graph in replays}) == 1
    rounding = 1e-4 if name == "lenet" else 2e-3  # a ReLU on the edge of zero, see tests/test_crew.py
    assert list(graph.losses.values()) == pytest.approx(list(eager.losses.values()), rel=rounding)
    assert [e[0] for e in graph.evaluations] == pytest.approx([e[0] for e in eager.evaluations], rel=rounding)
    began = fresh(small(name, model_options=options)).state_dict()
    found, wanted = graph.snapshots[-1]["model"], eager.snapshots[-1]["model"]
    assert_moved_alike(found, wanted, began, 1e-3 if name == "lenet" else 0.1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("lenet", SGD), ("resnet8", ADAMW), ("alexnet", ADAMW)],
    ids=["lenet", "resnet8", "alexnet"],
)
def test_a_resumed_graph_has_the_same_bits(device: torch.device, name: str, kind: dict[str, Any]) -> None:
    """Its first steps are eager where those of the whole run were replayed; AlexNet draws its dropout in the graph."""
    assert_resumes(device, name, {**kind, "compile": "graph"})


def test_averaged_weights_and_norms_are_recorded_too(device: torch.device) -> None:
    fields = {**SGD, "ema": 0.9, "clip_norm": 0.5, "grad_norm": "layers"}
    eager, graph = (run(small("resnet8", **fields, **way), device) for way in (EAGER, GRAPH))
    assert list(graph.losses.values()) == pytest.approx(list(eager.losses.values()), rel=1e-3)
    assert graph.evaluations[-1][0] == pytest.approx(eager.evaluations[-1][0], rel=1e-3)
