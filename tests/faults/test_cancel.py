"""F17: a person cancels, whatever the run is doing just then."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, WAIT_S, Json, Yard, freeze, thaw, wait_gone
from tests.processes import wait_for

on_sqlite = pytest.mark.parametrize("manned_ground", ["sqlite"], indirect=True, scope="module")
LARGE: Json = {
    **LONG,
    "model": "resnet18",
    "train_size": 2,
    "val_size": 2,
    "batch_size": 2,
    "model_options": {},
}


def test_cancel_while_it_trains(manned: Yard, figures: Figures) -> None:
    """F17 cancel, training: the trainer reads it in the reply of its next flush, writes a checkpoint and stops."""
    run_id = manned.submit(LONG)
    manned.wait_steps(run_id, 20)
    trainer = manned.trainer_of(run_id)
    figures.strike()
    manned.cancel(run_id)
    figures.since(manned.backend, "canceled")
    wait_gone(trainer)
    figures.since(manned.backend, "trainer gone")
    run = assert_intact(manned, run_id)
    assert run.checkpoint is not None
    assert run.checkpoint["step"] == run.step  # it can be resumed where it stopped


@on_sqlite
def test_cancel_while_it_waits(manned: Yard, figures: Figures) -> None:
    """F17 cancel, queued: canceled in the request itself; the message finds nothing to claim."""
    busy = [manned.submit(LONG, seed=seed) for seed in range(2)]
    for run_id in busy:
        manned.wait_steps(run_id)
    waiting = manned.submit(LONG)
    figures.strike()
    manned.ask(waiting, "cancel")
    figures.since(manned.backend, "canceled")
    assert manned.run(waiting).state == "canceled"
    for run_id in busy:
        manned.cancel(run_id)
    with manned.broker() as broker:
        wait_for(lambda: broker.llen("runs") == 0, "its message to be taken", 60)
    run = assert_intact(manned, waiting)
    assert (run.attempt, manned.series(waiting)) == (0, {})


@on_sqlite
def test_cancel_while_it_hangs(manned: Yard, figures: Figures) -> None:
    """F17 cancel, hung: nobody answers, the lease expires, the reaper does what was asked; the trainer is killed."""
    run_id = manned.submit(LONG)
    manned.wait_steps(run_id, 20)
    trainer = manned.trainer_of(run_id)
    freeze([trainer])
    figures.strike()
    manned.cancel(run_id)
    figures.since(manned.backend, "canceled")
    wait_gone(trainer)
    figures.since(manned.backend, "trainer gone")
    assert assert_intact(manned, run_id).attempt == 1


@on_sqlite
def test_cancel_while_a_checkpoint_is_written(manned: Yard, figures: Figures) -> None:
    """F17 cancel, checkpointing: the file is written whole or not at all, and nothing half written stays."""
    run_id = manned.submit(LARGE)
    trainer = manned.trainer_of(run_id)
    folder = manned.directory / "runs" / run_id

    stop_in_checkpoint(trainer, folder)
    figures.strike()
    manned.ask(run_id, "cancel")
    thaw([trainer])
    manned.wait_state(run_id, "canceled")
    figures.since(manned.backend, "canceled")
    wait_gone(trainer)
    assert assert_intact(manned, run_id).attempt == 1


@on_sqlite
def test_a_trainer_killed_while_it_writes_a_checkpoint_leaves_no_half_of_it(manned: Yard) -> None:
    """F1 trainer SIGKILL while it writes a checkpoint: the next attempt goes on from the one before and tidies up."""
    run_id = manned.submit(LARGE)
    manned.wait_checkpoint(run_id)
    trainer = manned.trainer_of(run_id)
    folder = manned.directory / "runs" / run_id
    half = stop_in_checkpoint(trainer, folder)
    trainer.kill()
    run = manned.wait(run_id, lambda run: run.attempt == 2 and run.checkpoint is not None, "attempt 2")
    assert run.checkpoint is not None
    manned.wait_checkpoint(run_id, after_step=run.checkpoint["step"])
    manned.cancel(run_id)
    assert assert_intact(manned, run_id).attempt == 2
    assert not half.exists()


def stop_in_checkpoint(trainer: psutil.Process, folder: Path) -> Path:
    """The half-written file with which the trainer was stopped."""

    def look() -> Path | None:
        if not any(folder.glob(".checkpoint-*")):
            return None
        freeze([trainer])
        for path in folder.glob(".checkpoint-*"):
            return path
        thaw([trainer])  # it was done just then
        return None

    return wait_for(look, "a checkpoint being written", WAIT_S)
