"""Early stopping, steps whose loss is no number, and the norms of gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.catalog import MODELS
from ml.events import Done, Evaluated, Note, Points, Snapshot
from ml.models import build_model
from ml.spec import RunSpec
from ml.stopping import Patience, look, reason_to_stop
from ml.train import NonFiniteLoss, train
from tests.bits import assert_same_bits
from tests.test_train import CPU, SGD, collect, digits, evaluations, last_state, series, spec_of

STUCK: dict[str, Any] = {"lr": 1e-6, "epochs": 9, "train_size": 20, "val_size": 20, "batch_size": 10}
WILD: dict[str, Any] = {
    "lr": 10.0,
    "input_scaling": "raw",
    "model_options": {"activation": "relu"},
    "epochs": 3,
}


# -- early stopping --------------------------------------------------------------------------------------------


@given(
    results=st.lists(st.floats(0, 10) | st.just(math.nan), min_size=1, max_size=30),
    patience=st.integers(1, 5),
    metric=st.sampled_from(["loss", "accuracy"]),
)
def test_it_stops_after_so_many_epochs_without_a_better_result(
    results: list[float], patience: int, metric: str
) -> None:
    spec = RunSpec(patience=patience, patience_metric=metric)  # type: ignore[arg-type]
    so_far = Patience()
    for epoch, value in enumerate(results, start=1):
        so_far = look(spec, so_far, epoch, loss=value, accuracy=value)
        seen = [v for v in results[:epoch] if not math.isnan(v)]
        best = (min(seen) if metric == "loss" else max(seen)) if seen else None
        best_epoch = results.index(best) + 1 if best is not None else 0
        assert so_far == Patience(best, best_epoch, epoch - best_epoch)
        assert (reason_to_stop(spec, so_far) is not None) == (epoch - best_epoch >= patience)
        assert reason_to_stop(spec.model_copy(update={"patience": None}), so_far) is None


def test_a_run_that_gets_no_better_ends_and_says_why() -> None:
    events = collect(spec_of(patience=2, patience_metric="accuracy", **STUCK))
    accuracies = [accuracy for *_, accuracy in evaluations(events)]
    assert len(accuracies) == 3
    assert events[-1] == Done(
        6,
        3,
        f"stopped early: val/accuracy has been no better since epoch 1 ({accuracies[0]:.6g}), with a patience of 2",
    )
    assert [e.is_last for e in events if isinstance(e, Snapshot)] == [False, False, True]


def test_a_resumed_run_stops_where_the_whole_one_does() -> None:
    spec = spec_of(patience=3, patience_metric="accuracy", **STUCK)
    whole = collect(spec)
    states = [e.state for e in whole if isinstance(e, Snapshot)]
    assert len(states) == 4
    for state in states:
        again = collect(spec, resume=state)
        assert again[-1] == whole[-1]
        if resumed := [e for e in again if isinstance(e, Snapshot)]:
            assert_same_bits(resumed[-1].state, states[-1])


# -- a loss that is no number ----------------------------------------------------------------------------------


def test_a_run_may_go_on_after_a_loss_that_is_no_number() -> None:
    spec = spec_of(on_nan="continue", **WILD)
    with pytest.raises(NonFiniteLoss):
        collect(spec.model_copy(update={"on_nan": "fail"}))
    events = collect(spec)
    losses = series(events, "train/loss")
    assert list(losses) == list(range(1, spec.total_steps + 1))
    assert isinstance(events[-1], Done)
    (note,) = (e for e in events if isinstance(e, Note))
    assert note.text.startswith("the loss or its gradient was no number at step ")
    weights = last_state(events)["model"]
    assert all(torch.isfinite(w).all() for w in weights.values())  # no step of those has touched them


@pytest.mark.parametrize("model", ["lenet", "resnet8"])
def test_a_skipped_step_changes_nothing(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Neither weights nor the statistics of batch normalisation."""
    spec = spec_of(model=model, on_nan="continue", train_size=10, batch_size=10, epochs=1, **SGD)
    monkeypatch.setattr("ml.train.is_sound", lambda model, loss: False)
    torch.manual_seed(spec.seed)
    fresh = build_model(model, MODELS[model].options(), (1, 28, 28), 10).state_dict()
    events = collect(spec)
    assert_same_bits(last_state(events)["model"], fresh)
    assert [e.text for e in events if isinstance(e, Note)] == [
        "the loss or its gradient was no number at step 1: such steps change no weight, and training goes on"
    ]


def test_going_on_leaves_the_bits_of_a_sound_run_alone() -> None:
    one, other = (collect(spec_of(on_nan=policy, **SGD)) for policy in ("fail", "continue"))
    assert_same_bits(last_state(one)["model"], last_state(other)["model"])


# -- norms -----------------------------------------------------------------------------------------------------


def test_norms_are_those_of_the_gradient_before_clipping() -> None:
    spec = spec_of(grad_norm="layers", clip_norm=0.01, train_size=30, batch_size=30, epochs=1, **SGD)
    events = collect(spec)
    torch.manual_seed(spec.seed)
    model = build_model("lenet", MODELS["lenet"].options(), (1, 28, 28), 10)
    data = digits()
    chosen = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(spec.seed))[:30]
    x = (data.train_images[chosen].float() / 255 - data.mean[0]) / data.std[0]
    torch.nn.functional.cross_entropy(model(x), data.train_labels[chosen]).backward()  # type: ignore[no-untyped-call]
    layers = {
        f"grad_norm/{name}": module for name, module in model.named_modules() if hasattr(module, "weight")
    }
    squares = 0.0
    for metric, module in layers.items():
        square = sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None)
        assert series(events, metric)[1] == pytest.approx(math.sqrt(square), rel=1e-4)
        squares += square
    assert len(layers) == 5
    assert series(events, "grad_norm")[1] == pytest.approx(math.sqrt(squares), rel=1e-4)


@pytest.mark.parametrize("grad_norm", ["total", "layers"])
def test_recording_norms_changes_no_bit(grad_norm: str) -> None:
    spec = spec_of(model="resnet8", train_size=8, val_size=4, batch_size=4, precision="fp32", **SGD)
    plain = collect(spec)
    told = collect(spec.model_copy(update={"grad_norm": grad_norm}))
    assert series(plain, "train/loss") == series(told, "train/loss")
    assert_same_bits(last_state(plain)["model"], last_state(told)["model"])
    metrics = {name for e in told if isinstance(e, Points) for name in e.values}
    norms = sorted(name for name in metrics if name.startswith("grad_norm"))
    assert norms[0] == "grad_norm"
    assert len(norms) == (
        1 if grad_norm == "total" else 1 + 8
    )  # stem, six in blocks, head: the bare ones have no weights
    assert all(math.isfinite(v) for name in norms for v in series(told, name).values())


# -- evaluation ------------------------------------------------------------------------------------------------


def test_logits_are_those_of_the_answers() -> None:
    for event in collect(spec_of(val_size=None, epochs=1)):
        if isinstance(event, Evaluated):
            assert event.logits.shape == (360, 10)
            assert event.logits.dtype == "float16"
            top = event.logits.max(axis=1)
            assert (event.logits[range(360), event.predicted] == top).all()


def test_an_evaluation_answers_a_request_between_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Event as Flag

    from ml.events import Evaluating

    monkeypatch.setattr("ml.evaluation.evaluation_batch", lambda flops, device: 16)
    wanted, seen = Flag(), []
    for event in train(spec_of(epochs=1), digits(), device=CPU, snapshot_requested=wanted):
        seen.append(event)
        if isinstance(event, Evaluating) and event.done == 16:
            wanted.set()
    kinds = [type(e) for e in seen if not isinstance(e, Points)]
    assert kinds[1:] == [Evaluating, Evaluating, Snapshot, Evaluating, Evaluating, Evaluated, Snapshot, Done]


def test_slow_models_are_evaluated_in_small_batches() -> None:
    from ml.batches import LARGEST, evaluation_batch
    from ml.setup import prepare

    sizes = {
        model: evaluation_batch(prepare(spec_of(model=model), digits(), CPU).flops, "cpu")
        for model in ("lenet", "resnet8", "resnet50")
    }
    assert sizes["lenet"] == LARGEST
    assert sizes["lenet"] >= sizes["resnet8"] > sizes["resnet50"]
