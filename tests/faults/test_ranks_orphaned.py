"""A run on two processes whose trainer or worker is killed, told to end, or makes a mistake: workers of these tests
alone."""

from __future__ import annotations

import pytest

from tests.faults.test_ranks import TWO, assert_whole, ranks_of
from tests.faults.yard import Yard, is_gone, kill, wait_gone


def test_a_trainer_or_a_worker_that_is_killed_leaves_no_rank(yard: Yard) -> None:
    with yard.worker() as worker:
        run_id = yard.submit(TWO)
        yard.wait_checkpoint(run_id)
        ranks = ranks_of(yard, run_id)
        yard.trainer_of(run_id).kill()
        for process in ranks:
            wait_gone(process)
        yard.wait_steps(run_id, 1, attempt=2)
        family = [*yard.family(worker), *ranks_of(yard, run_id)]
        kill(worker)
        for process in family:
            wait_gone(process)
    with yard.worker():
        yard.wait_steps(run_id, 1, attempt=3)
        yard.cancel(run_id)
        assert_whole(yard, run_id)


def test_a_worker_told_to_end_keeps_what_two_ranks_trained(yard: Yard) -> None:
    with yard.worker() as worker:
        run_id = yard.submit(TWO)
        yard.wait_checkpoint(run_id)
        ranks = ranks_of(yard, run_id)
        worker.stop(within_s=40)
        assert all(is_gone(process) for process in ranks)
    run = yard.run(run_id)
    assert run.state == "queued"
    assert run.checkpoint is not None
    assert f"resumes from step {run.checkpoint['step']:,}" in yard.reasons(run_id)[-1]
    assert run.checkpoint["step"] == run.step  # written because it was told to end, not some time before
    assert run.failures == 0


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        ("tensor/1@10", "Out of memory at batch size 32: 1073741824.0 GiB more were asked for"),
        ("mistake/0@10", "KeyError"),
    ],
)
def test_an_error_that_would_come_again_ends_the_run_whichever_rank_has_it(
    yard: Yard, sabotage: str, words: str
) -> None:
    with yard.worker(sabotage=sabotage):
        run_id = yard.submit(TWO)
        run = yard.wait_state(run_id, "failed", "finished")
        assert run.state == "failed"
        assert run.error is not None
        assert run.error.startswith(words)
        assert (run.attempt, run.failures) == (1, 0)
        assert assert_whole(yard, run_id).step <= 9
