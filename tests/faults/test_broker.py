"""F7, F8, F19: Redis dies, hangs, or hangs while the web process dies; the database remembers what was asked."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

import httpx
from sqlmodel import col, select

from app.models import Run
from tests.faults.figures import Figures
from tests.faults.followers import assert_told_once, following
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, QUICK, Yard, kill, pause
from tests.processes import wait_for

AWAY_S = 3.0


def test_redis_comes_back_empty_and_nothing_is_lost(crewed: Yard, figures: Figures) -> None:
    """F7 Redis SIGKILL, back empty: runs train on, streams tell of it, what waited is published again."""
    running = [crewed.submit(LONG) for _ in range(2)]
    for run_id in running:
        crewed.wait_steps(run_id, 5)
    waiting = crewed.submit(QUICK)  # its message goes with Redis
    with crewed.broker() as broker:
        wait_for(lambda: broker.llen("runs") > 0, "its message")
    with following(crewed, running[0]) as (follower,):
        figures.strike()
        kill(crewed.redis.process)
        told = len(follower.steps)
        late = crewed.submit(QUICK, seed=1)
        figures.since(crewed.backend, "POST answered")
        pause(AWAY_S)
        wait_for(lambda: len(follower.steps) > told + 5, "points without Redis")
        crewed.start_redis()
        for run_id in running:
            crewed.cancel(run_id)
    figures.strike()
    for run_id in (waiting, late):
        crewed.finish(run_id)
    figures.since(crewed.backend, "queued runs done after the slots were free")
    assert_told_once(follower, crewed.run(running[0]).step)
    longest_first = sorted(
        running, key=lambda run_id: -crewed.run(run_id).step
    )  # one undisturbed run for both
    for run_id in (*longest_first, waiting, late):
        assert assert_intact(crewed, run_id).attempt == 1


def test_a_broker_that_hangs_holds_nobody_up(crewed: Yard, figures: Figures) -> None:
    """F8 Redis SIGSTOP: a new run is taken, others train on, and it is trained once Redis answers."""
    running = crewed.submit(LONG)
    crewed.wait_steps(running, 5)
    os.kill(crewed.redis.process.pid, signal.SIGSTOP)
    try:
        before = crewed.run(running).step
        figures.strike()
        run_id = crewed.submit(QUICK)  # the broker is given two seconds
        assert figures.since(crewed.backend, "POST answered") < 15
        crewed.wait_steps(running, before + 10)
        assert crewed.run(run_id).state == "queued"
    finally:
        os.kill(crewed.redis.process.pid, signal.SIGCONT)
    figures.strike()
    crewed.finish(run_id)
    figures.since(crewed.backend, "done after Redis went on")
    crewed.cancel(running)
    for one in (running, run_id):
        assert assert_intact(crewed, one).attempt == 1


def test_a_run_whose_web_process_dies_before_it_is_published_is_trained_once(
    crewed: Yard, figures: Figures
) -> None:
    """F19 web SIGKILL between commit and publish: trained all the same; the client's second try gets that run."""
    request: dict[str, Any] = {
        "json": {"spec": {**QUICK, "seed": 19}, "name": "asked for twice"},
        "headers": {"Idempotency-Key": "f19"},
    }

    def ask() -> None:
        with suppress(httpx.HTTPError):  # it is cut off
            httpx.post(f"{crewed.web.url}/api/v1/runs", trust_env=False, timeout=30, **request)

    asking = threading.Thread(target=ask)
    os.kill(crewed.redis.process.pid, signal.SIGSTOP)  # so that the web process stands between the two
    try:
        asking.start()
        run = wait_for(lambda: find(crewed, "asked for twice"), "the row")
        figures.strike()
        kill(crewed.web.process)
        assert run.published_at is None
    finally:
        os.kill(crewed.redis.process.pid, signal.SIGCONT)
    asking.join(60)
    crewed.finish(run.id)  # without a web process: the worker's own reaper publishes it
    figures.since(crewed.backend, "done without the web process")
    crewed.start_web()
    answer = crewed.http.post("/api/v1/runs", **request)
    assert answer.status_code in (200, 201)
    assert answer.json()["id"] == run.id
    assert assert_intact(crewed, run.id).attempt == 1


def find(yard: Yard, name: str) -> Run | None:
    with yard.db.read() as s:
        return s.exec(select(Run).where(col(Run.name) == name)).one_or_none()
