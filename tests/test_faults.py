"""A whole Trainyard whose neighbours fail: Redis lost, the database away, a trainer hung, rubbish in the queue."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import redis

from tests import processes
from tests.processes import Postgres, Process, free_port, wait_for

pytestmark = pytest.mark.slow

Json = dict[str, Any]
QUICK: Json = {"dataset": "digits", "train_size": 64, "val_size": 32, "epochs": 2, "batch_size": 16}
LONG: Json = {"dataset": "digits", "train_size": 512, "val_size": 64, "epochs": 10_000, "batch_size": 16}


@dataclass
class Yard:
    """A web process and a worker with two slots, leases of three seconds, Redis on a port of its own."""

    http: httpx.Client
    worker: Process
    directory: Path
    redis: processes.Redis
    redis_port: int

    def submit(self, spec: Json) -> str:
        run_id: str = self.http.post("/api/v1/runs", json={"spec": spec}).raise_for_status().json()["id"]
        return run_id

    def wait(self, run_id: str, what: Callable[[Json], bool], within_s: float = 90) -> Json:
        def look() -> Json | None:
            response = self.http.get(f"/api/v1/runs/{run_id}")
            run: Json = response.json()
            return run if response.status_code == 200 and what(run) else None

        return wait_for(look, f"run {run_id}", within_s, process=self.worker)

    def finish(self, run_id: str) -> Json:
        return self.wait(run_id, lambda run: run["state"] == "finished")

    def cancel(self, run_id: str) -> Json:
        self.http.post(f"/api/v1/runs/{run_id}/cancel").raise_for_status()
        return self.wait(run_id, lambda run: run["state"] == "canceled")

    def steps(self, run_id: str) -> list[int]:
        query = {"run": run_id, "points": "10000"}
        found: Json = self.http.get("/api/v1/series", params=query).raise_for_status().json()["series"][0]
        if found["total"] > found["returned"]:  # count the points, see the ends
            return list(range(found["step"][0], found["step"][0] + found["total"]))
        steps: list[int] = found["step"]
        return steps

    def trainers(self) -> list[psutil.Process]:
        """Of our own worker: others may train on this machine."""
        children = psutil.Process(self.worker.pid).children()
        return [child for child in children if "worker.trainer" in child.cmdline()]

    def trainer_of(self, run_id: str) -> psutil.Process:
        """The one that writes the run's log."""

        def look() -> psutil.Process | None:
            for trainer in self.trainers():
                with suppress(OSError):
                    if f"/{run_id}/" in os.readlink(f"/proc/{trainer.pid}/fd/2"):
                        return trainer
            return None

        return wait_for(look, "its trainer", 60)


@contextmanager
def a_yard(directory: Path, **more: str) -> Iterator[Yard]:
    with ExitStack() as stack:
        port = free_port()
        broker = stack.enter_context(processes.redis_server(directory, port=port))
        env = processes.trainyard_env(directory, broker_url=broker.broker_url, LEASE_S="3", **more)
        processes.migrate(env)
        web = stack.enter_context(processes.web_process(env, directory=directory))
        worker = stack.enter_context(processes.worker_process(env, 2, directory=directory))
        http = stack.enter_context(httpx.Client(base_url=web.url, trust_env=False, timeout=40))
        yield Yard(http, worker, directory, broker, port)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    with a_yard(tmp_path_factory.mktemp("faults")) as yard:
        yield yard


def message(run_id: object) -> Json:
    """A Celery task message of ours, as it lies in Redis; `run_id` may be anything."""
    body = base64.b64encode(json.dumps([[run_id], {}, {}]).encode()).decode()
    headers = {"lang": "py", "task": "trainyard.train_run", "id": "1", "root_id": "1", "parent_id": None}
    properties = {
        "correlation_id": "1", "delivery_mode": 2, "priority": 0, "body_encoding": "base64", "delivery_tag": "1",
        "delivery_info": {"exchange": "", "routing_key": "runs"},
    }  # fmt: skip
    return {
        "body": body, "content-encoding": "utf-8", "content-type": "application/json",
        "headers": headers, "properties": properties,
    }  # fmt: skip


def test_rubbish_in_the_queue_is_thrown_away(yard: Yard) -> None:
    run = message("x")
    rubbish: list[str | bytes] = [
        b"", b"\xff\x00garbage", "{}", "[]", "null", "12", '{"body": 1}', "x" * 1_000_000,
        json.dumps({**run, "body": "!!!"}), json.dumps({**run, "headers": {}}), json.dumps({**run, "properties": {}}),
        *(json.dumps(message(odd)) for odd in ("nobody", None, 5, ["a"], {"id": "a"}, "x" * 100_000, "\0")),
    ]  # fmt: skip
    with redis.Redis.from_url(yard.redis.url) as client:
        for one in rubbish:
            client.lpush("runs", one)
        wait_for(lambda: client.llen("runs") == 0, "the rubbish to be taken", 60, process=yard.worker)
    yard.finish(yard.submit(QUICK))


def test_redis_comes_back_empty_and_nothing_is_lost(yard: Yard) -> None:
    running = [yard.submit(LONG) for _ in range(2)]
    for run_id in running:
        yard.wait(run_id, lambda run: run["step"] > 0)
    waiting = yard.submit(QUICK)  # its message goes with Redis
    with redis.Redis.from_url(yard.redis.url) as client:
        wait_for(lambda: client.llen("runs") > 0, "its message", 30)
    os.kill(yard.redis.process.pid, signal.SIGKILL)
    yard.redis.process.popen.wait(20)
    before = yard.wait(running[0], lambda run: run["step"] > 0)
    yard.wait(running[0], lambda run: run["step"] > before["step"] + 50)  # training does not need it
    late = yard.submit(QUICK)
    with processes.redis_server(yard.directory, port=yard.redis_port):
        for run_id in running:
            assert yard.cancel(run_id)["attempt"] == 1
            steps = yard.steps(run_id)
            assert steps == list(range(1, len(steps) + 1))
        for run_id in (waiting, late):
            assert yard.finish(run_id)["attempt"] == 1


def test_a_trainer_that_hangs_loses_its_run_and_is_ended(tmp_path: Path) -> None:
    with a_yard(tmp_path) as yard:
        run_id = yard.submit(LONG)
        yard.wait(run_id, lambda run: run["step"] > 0)
        hung = yard.trainer_of(run_id)
        hung.suspend()
        run = yard.wait(run_id, lambda run: run["attempt"] == 2 and run["step"] > 0)
        assert any("stopped answering" in event["reason"] for event in run["events"])
        wait_for(lambda: not hung.is_running(), "the end of the one that hung", 30)
        steps = yard.steps(run_id)
        assert steps == list(range(1, len(steps) + 1))
        yard.cancel(run_id)


def test_training_goes_on_while_the_database_is_locked(tmp_path: Path) -> None:
    with a_yard(tmp_path) as yard:
        run_id = yard.submit(LONG)
        before = yard.wait(run_id, lambda run: run["step"] > 0)
        with closing(sqlite3.connect(tmp_path / "trainyard.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked = yard.wait(run_id, lambda run: True)
            threading.Event().wait(5)  # longer than a lease
            assert yard.wait(run_id, lambda run: True)["step"] == locked["step"]
            other.execute("ROLLBACK")
        yard.wait(run_id, lambda run: run["step"] > before["step"] + 100)
        run = yard.cancel(run_id)
        assert run["attempt"] == 1, [event["reason"] for event in run["events"]]  # nobody was charged for it
        assert yard.steps(run_id) == list(range(1, run["step"] + 1))


def test_postgres_drops_every_connection_for_seconds(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    name = url.rsplit("/", 1)[1]
    with (
        a_yard(tmp_path, DATABASE_URL=url) as yard,
        psycopg.connect(postgres.url(), autocommit=True) as admin,
    ):
        run_id = yard.submit({**LONG, "epochs": 60})
        yard.wait(run_id, lambda run: run["step"] > 0)
        drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        for _ in range(20):
            admin.execute(drop, [name])
            threading.Event().wait(0.1)
        run = yard.finish(run_id)
        assert run["attempt"] == 1, run["events"]
        assert yard.steps(run_id) == list(range(1, 1_921))
