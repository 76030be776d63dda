"""F1, F16, F17 with workers of their own: trainers that run out of memory, abort, stand still, or only just begin."""

from __future__ import annotations

import itertools

from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, Yard, wait_gone


def test_a_trainer_that_runs_out_of_memory_is_replaced(yard: Yard, figures: Figures) -> None:
    """F1 out of memory: the allocation is refused, the attempt ends and says why, the next one resumes."""
    with yard.worker(sabotage="memory@150 once"):
        run_id = yard.submit(LONG)
        figures.strike()
        yard.wait(run_id, lambda run: len(yard.events(run_id)) > 2, "the end of the first attempt")
        (died,) = [
            event
            for event in yard.events(run_id)
            if (event.from_state, event.to_state) == ("running", "queued")
        ]
        assert "memory" in died.reason.lower()
        figures.struck_at = died.at
        figures.recovered(yard, run_id)
        yard.cancel(run_id)
        assert assert_intact(yard, run_id).attempt == 2


def test_a_run_whose_trainers_keep_dying_is_given_up(yard: Yard, figures: Figures) -> None:
    """F16 crash loop: three claims, a longer wait before each, then failed with the reason and its traceback."""
    with yard.worker(sabotage="abort@10", CHECKPOINT_S="3600"):
        run_id = yard.submit(LONG)
        figures.strike()
        run = yard.wait_state(run_id, "failed", "finished")
        figures.since(yard.backend, "given up")
        assert assert_intact(yard, run_id).state == "failed"
    assert run.attempt == run.failures == len(yard.claims(run_id)) == 3
    assert run.error is not None
    assert "signal 6" in run.error
    assert "gave up after 3 failed attempts" in run.error
    deaths = [event.at for event in yard.events(run_id) if event.from_state == "running"]
    claims = [event.at for event in yard.claims(run_id)]
    waits = [claim - death for death, claim in zip(deaths, claims[1:], strict=False)]
    assert [wait >= least for wait, least in zip(waits, (1, 5), strict=True)] == [True, True], waits
    for before, after in itertools.pairwise(waits):
        assert after > before


def test_an_error_of_the_gpu_is_survived_by_another_attempt(yard: Yard) -> None:
    """A process whose GPU has failed can do nothing more with it; the next one may."""
    with yard.worker(sabotage="ecc@150 once"):
        run_id = yard.submit(LONG)
        yard.wait_steps(run_id, 160, attempt=2)
        died = next(
            event for event in yard.events(run_id) if event.to_state == "queued" and event.attempt == 1
        )
        assert (
            "AcceleratorError: CUDA error: uncorrectable ECC error encountered; resumes from" in died.reason
        )
        yard.cancel(run_id)
        assert assert_intact(yard, run_id).attempt == 2


def test_a_loop_that_stands_still_is_canceled_by_force(yard: Yard, figures: Figures) -> None:
    """F17 cancel, loop stands still: its lease is renewed, it never asks; SIGTERM after 5 s, SIGKILL after 15 s."""
    with yard.worker(sabotage="hang@10"):
        run_id = yard.submit(LONG)
        yard.wait_steps(run_id, 1)
        yard.wait_sabotage()
        trainer = yard.trainer_of(run_id)
        figures.strike()
        yard.cancel(run_id)
        figures.since(yard.backend, "canceled")
        wait_gone(trainer)
        run = assert_intact(yard, run_id)
        assert (run.state, run.attempt) == ("canceled", 1)
        assert 1 <= run.step <= 9  # those just before may not have been reported yet
        yard.cancel(yard.submit(LONG))  # the slot is free


def test_cancel_while_the_trainer_starts(yard: Yard, figures: Figures) -> None:
    """F17 cancel, importing: the trainer has the run but not yet torch; it stops at its first step."""
    run_id = yard.submit(LONG)
    with yard.worker():
        yard.wait(run_id, lambda run: run.state == "running", "its claim")
        figures.strike()
        yard.ask(run_id, "cancel")
        assert yard.run(run_id).phase == "starting"
        yard.wait_state(run_id, "canceled")
        figures.since(yard.backend, "canceled")
        assert assert_intact(yard, run_id).attempt == 1
