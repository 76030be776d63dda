"""F1 and F4: the trainer dies or hangs, its worker lives."""

from __future__ import annotations

from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, Yard, wait_gone


def test_a_killed_trainer_is_replaced_at_once(either: Yard, figures: Figures) -> None:
    """F1 trainer SIGKILL: re-queued by its supervisor without waiting for the lease, resumed at the checkpoint."""
    with either.worker(slots=1):
        run_id = either.submit(LONG)
        either.wait_checkpoint(run_id)
        victim = either.trainer_of(run_id)
        figures.strike()
        victim.kill()
        figures.recovered(either, run_id)
        either.cancel(run_id)
        run = assert_intact(either, run_id)
    assert run.attempt == 2
    assert any("signal 9" in reason for reason in either.reasons(run_id))
    wait_gone(victim)
