"""A run on two devices, here two processes: whatever ends one of them ends both, and the run goes on from there."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from sqlalchemy import update
from sqlmodel import col

from app.models import Run
from tests.faults.invariants import (
    assert_attempts_in_order,
    assert_contiguous,
    assert_files,
    assert_legal,
    assert_no_orphan,
)
from tests.faults.yard import LONG, Yard, command_of, output_of, wait_gone
from tests.processes import wait_for

TWO = {**LONG, "devices": 2, "train_size": 128, "batch_size": 32, "epochs": 10_000}
SHORT = {**TWO, "epochs": 12}


def ranks_of(yard: Yard, run_id: str) -> list[psutil.Process]:
    """Both ranks of the run, rank 0 first: they were started in their order."""

    def look() -> list[psutil.Process] | None:
        found = [
            process
            for process in yard.processes()
            if "multiprocessing.spawn" in " ".join(command_of(process))
            and f"/runs/{run_id}/" in output_of(process)
        ]
        return sorted(found, key=lambda process: process.pid) if len(found) == 2 else None

    return wait_for(look, "two ranks", 60)


def assert_whole(yard: Yard, run_id: str) -> Run:
    """All that `assert_intact` checks, but for the bits of a run on one device."""
    run, series, events = yard.run(run_id), yard.series(run_id), yard.events(run_id)
    assert_contiguous(series, run)
    assert_attempts_in_order(series, events)
    assert_legal(events, run)
    assert_files(yard, run)
    assert_no_orphan(yard, run)
    return run


@pytest.fixture
def started(crewed: Yard) -> tuple[Yard, str]:
    """A run on two ranks that has written a checkpoint."""
    run_id = crewed.submit(TWO)
    crewed.wait_checkpoint(run_id)
    return crewed, run_id


def test_a_run_on_two_processes_is_that_on_one_and_resumes_to_its_bits(crewed: Yard) -> None:
    """Both whole and paused in the middle; one process trains the same to rounding."""
    alone, whole, paused = (crewed.submit({**SHORT, "devices": n}) for n in (1, 2, 2))
    crewed.finish(alone)
    run = crewed.finish(whole)
    crewed.wait_steps(paused, 5)
    crewed.ask(paused, "pause")
    crewed.wait_state(paused, "paused", "finished")
    assert crewed.run(paused).state == "paused", "the run was over before it could be paused"
    assert_no_orphan(crewed, crewed.run(paused))
    crewed.ask(paused, "resume")
    assert crewed.finish(paused).attempt == 2
    for run_id in (whole, paused):
        assert assert_whole(crewed, run_id).step == run.total_steps
    one, two, again = (crewed.series(run_id) for run_id in (alone, whole, paused))
    assert set(one) == set(two)
    for metric, found in two.items():
        assert np.allclose(found.values, one[metric].values, rtol=5e-3, atol=1e-4), metric
        assert np.array_equal(found.values, again[metric].values), metric


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_the_run_goes_on(started: tuple[Yard, str], rank: int) -> None:
    yard, run_id = started
    trainer, ranks = yard.trainer_of(run_id), ranks_of(yard, run_id)
    ranks[rank].kill()
    for process in (*ranks, trainer):
        wait_gone(process)
    yard.wait_steps(run_id, 1, attempt=2)
    died = next(event for event in yard.events(run_id) if event.to_state == "queued" and event.attempt == 1)
    assert f"rank {rank} of 2 was killed by signal 9" in died.reason
    assert "resumes from step" in yard.claims(run_id)[1].reason
    yard.cancel(run_id)
    assert assert_whole(yard, run_id).attempt == 2


def test_cancel_ends_all_ranks(started: tuple[Yard, str]) -> None:
    yard, run_id = started
    trainer, ranks = yard.trainer_of(run_id), ranks_of(yard, run_id)
    listening = [
        connection.laddr.ip
        for process in (trainer, *ranks)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}  # on no interface that others reach
    yard.cancel(run_id)
    for process in (*ranks, trainer):
        wait_gone(process)
    assert assert_whole(yard, run_id).attempt == 1


def test_ranks_whose_lease_is_lost_end_and_write_nothing_more(started: tuple[Yard, str]) -> None:
    yard, run_id = started
    trainer, ranks = yard.trainer_of(run_id), ranks_of(yard, run_id)
    with yard.db.begin() as s:
        s.execute(update(Run).where(col(Run.id) == run_id).values(attempt=col(Run.attempt) + 1))
    for process in (*ranks, trainer):
        wait_gone(process)
    with yard.db.begin() as s:
        s.execute(update(Run).where(col(Run.id) == run_id).values(lease_until=0.0))  # and nobody keeps it
    yard.wait_state(run_id, "queued", "running")
    yard.cancel(run_id)
