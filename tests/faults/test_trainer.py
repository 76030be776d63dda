"""F1, F4: a trainer dies or hangs while its worker lives; and the resumed run is the undisturbed one, bit by bit."""

from __future__ import annotations

import pytest

from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, Json, Yard, wait_gone

on_sqlite = pytest.mark.parametrize("manned_ground", ["sqlite"], indirect=True, scope="module")


def test_a_killed_trainer_is_replaced_at_once(manned: Yard, figures: Figures) -> None:
    """F1 trainer SIGKILL: re-queued by its supervisor without waiting for the lease, resumed at the checkpoint."""
    run_id = manned.submit(LONG)
    manned.wait_checkpoint(run_id)
    victim = manned.trainer_of(run_id)
    figures.strike()
    victim.kill()
    figures.recovered(manned, run_id)
    manned.cancel(run_id)
    run = assert_intact(manned, run_id)
    assert run.attempt == 2
    assert "signal 9" in manned.reasons(run_id)[2]
    wait_gone(victim)


def test_a_trainer_that_hangs_loses_its_run_and_is_ended(manned: Yard, figures: Figures) -> None:
    """F4 trainer SIGSTOP: its lease expires, another attempt goes on, its own supervisor ends it."""
    run_id = manned.submit(LONG)
    manned.wait_checkpoint(run_id)
    hung = manned.trainer_of(run_id)
    figures.strike()
    hung.suspend()
    figures.recovered(manned, run_id)
    wait_gone(hung)
    figures.since(manned.backend, "the old one ended")
    manned.cancel(run_id)
    assert assert_intact(manned, run_id).attempt == 2
    assert any("stopped answering" in reason for reason in manned.reasons(run_id))


SMALL: Json = {
    "dataset": "digits",
    "device": "cpu",
    "lr": 0.01,
    "momentum": 0.9,
    "val_size": 32,
    "batch_size": 16,
}
MODELS: dict[str, Json] = {
    "lenet": {"train_size": 200, "epochs": 16},  # 13 steps an epoch, the last of 8 images
    "alexnet": {"train_size": 72, "epochs": 20, "optimizer": "adamw", "lr": 0.001, "schedule": "onecycle"},
    "resnet8": {"train_size": 72, "epochs": 20, "schedule": "cosine"},
}


@on_sqlite
@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_was_killed_ends_as_if_nothing_had_been(manned: Yard, model: str) -> None:
    """F1 resumed to the end: every loss, the weights, the optimizer and the generators of an undisturbed run."""
    run_id = manned.submit({**SMALL, "model": model, **MODELS[model]})
    manned.wait_checkpoint(run_id)
    manned.trainer_of(run_id).kill()
    manned.finish(run_id)
    run = assert_intact(manned, run_id, final_state=True)
    assert run.attempt == 2
    assert "resumes from step" in manned.claims(run_id)[1].reason
