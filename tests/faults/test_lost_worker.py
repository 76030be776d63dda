"""F2, F3, F5, F6: a whole worker dies, is told to stop, is held up past its lease, or sleeps with all the rest."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, Yard, freeze, is_gone, kill, pause, thaw, wait_gone
from tests.processes import wait_for

EXIT_FENCED = 76


def test_when_a_worker_is_killed_its_trainers_end_and_another_goes_on(either: Yard, figures: Figures) -> None:
    """F2 worker SIGKILL: its trainer ends at once, the lease expires, another worker resumes."""
    with either.worker() as first:
        run_id = either.submit(LONG)
        either.wait_checkpoint(run_id)
        orphans = either.family(first)[1:]
        with either.worker():
            figures.strike()
            kill(first)
            for orphan in orphans:
                wait_gone(orphan)
            figures.since(either.backend, "its trainers ended")
            figures.recovered(either, run_id)
            either.cancel(run_id)
            run = assert_intact(either, run_id)
    assert (run.attempt, run.failures) == (2, 0)  # a checkpoint since then: no crash loop
    assert any("stopped answering" in reason for reason in either.reasons(run_id))


def test_a_worker_that_is_stopped_gives_its_run_back_uncharged(yard: Yard, figures: Figures) -> None:
    """F3 worker SIGTERM: checkpoint, release, exit 0; the next attempt goes on at that very step, nobody charged."""
    with yard.worker(CHECKPOINT_S="3600") as first:  # the only checkpoint is the one that it writes now
        run_id = yard.submit(LONG)
        before = yard.wait_steps(run_id, 5)
        figures.strike()
        assert first.stop(signal.SIGTERM, 60) == 0
        figures.since(yard.backend, "exit 0")
        released = yard.run(run_id)
        assert (released.state, released.failures) == ("queued", 0)
        assert released.checkpoint is not None
        assert released.checkpoint["step"] == released.step >= before.step
        with yard.worker():
            yard.wait_steps(run_id, released.step + 5, attempt=2)
            yard.cancel(run_id)
            assert assert_intact(yard, run_id).attempt == 2
    assert f"resumes from step {released.step:,}" in yard.claims(run_id)[1].reason


def test_no_write_of_a_worker_that_was_held_up_past_its_lease(either: Yard, figures: Figures) -> None:
    """F5 zombie worker: stopped for longer than a lease and continued after the takeover, it can write nothing more."""
    with either.worker() as first:
        run_id = either.submit(LONG)
        either.wait_checkpoint(run_id)
        zombie = either.trainer_of(run_id)
        with either.worker():
            figures.strike()
            held = freeze(either.family(first))
            figures.recovered(either, run_id)
            taken_over = either.run(run_id)
            either.wait_steps(run_id, taken_over.step + 50, attempt=2)
            thaw([zombie])  # alone: its supervisor would kill it before it could show what it does by itself
            assert exit_code(zombie) == EXIT_FENCED
            thaw(held)
            now = either.run(run_id)
            either.wait_steps(run_id, now.step + 50, attempt=2)
            either.cancel(run_id)
            assert assert_intact(either, run_id).attempt == 2
    log = either.directory / "runs" / run_id / "attempt-1.log"
    assert "superseded" in log.read_text()


def exit_code(process: psutil.Process) -> int:
    """Of one that has ended and was not reaped, as its parent is held up: the last field of its stat, see proc(5)."""
    wait_for(lambda: is_gone(process), "its end", 60)
    return int(Path(f"/proc/{process.pid}/stat").read_text().rsplit(" ", 1)[1]) >> 8


TRIALS = int(os.environ.get("TRIALS", "2"))  # `make faults` takes twenty


@pytest.mark.timeout(60 + 60 * TRIALS)
def test_nobody_loses_a_run_when_the_whole_machine_sleeps(either: Yard, figures: Figures) -> None:
    """F6 suspend: every process stands still for two leases and wakes in any order; no run changes hands."""
    order = random.Random(6)
    with either.worker(slots=1), either.worker(slots=1):
        ids = [either.submit(LONG, seed=seed) for seed in range(2)]
        for run_id in ids:
            either.wait_checkpoint(run_id)
        for _ in range(TRIALS):
            sleepers = freeze(either.processes())
            pause(2 * either.lease_s)
            figures.strike()
            order.shuffle(sleepers)
            thaw(sleepers)
            at = {run_id: either.run(run_id).step for run_id in ids}
            for run_id in ids:
                either.wait_steps(run_id, at[run_id] + 20)
            figures.since(either.backend, "training again")
            until = time.monotonic() + either.lease_s + 2  # a lease that was not extended is reaped by then
            either.wait(run_id, lambda _, until=until: time.monotonic() > until, "a lease")  # type: ignore[misc]
        for run_id in ids:
            either.cancel(run_id)
            run = assert_intact(either, run_id)
            assert (run.attempt, run.failures) == (1, 0), either.describe(run_id)
