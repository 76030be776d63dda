"""F9, F10: the queue holds a message many times, or things that are no message at all."""

from __future__ import annotations

import base64
import json
import os
import pickle

from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import QUICK, Json, Yard
from tests.processes import wait_for

QUEUE = "runs"


def test_a_run_whose_message_comes_fifty_times_is_claimed_once(either: Yard, figures: Figures) -> None:
    """F9 fifty messages: two workers of two slots each, one claim, one execution."""
    run_id = either.submit(QUICK, epochs=30)
    message = waiting_message(either)
    with either.broker() as broker:
        broker.rpush(QUEUE, *[message] * 49)
        figures.strike()
        with either.worker(slots=2), either.worker(slots=2):
            either.finish(run_id)
            wait_for(lambda: broker.llen(QUEUE) == 0, "the queue to drain", 60)
            figures.since(either.backend, "drained")
            run = assert_intact(either, run_id)
    assert run.attempt == 1
    assert len(either.claims(run_id)) == 1


def test_rubbish_in_the_queue_is_thrown_away(yard: Yard, figures: Figures) -> None:
    """F10 rubbish in the queue: bytes, half messages, a pickle, an unknown task, a huge body; the worker lives on."""
    with yard.worker() as worker:
        first = yard.submit(QUICK)
        yard.finish(first)
        canary = yard.directory / "canary"
        with yard.broker() as broker:
            for one in (*NO_MESSAGES, *odd_messages(), *dangerous_messages(str(canary))):
                broker.lpush(QUEUE, one)
            wait_for(lambda: broker.llen(QUEUE) == 0, "the rubbish to be taken", 60, process=worker)
        figures.strike()
        run_id = yard.submit(QUICK)
        yard.finish(run_id)
        figures.since(yard.backend, "next run finished")
        assert assert_intact(yard, run_id).attempt == 1
        worker.check()
    assert not canary.exists()
    assert yard.run(first).attempt == 1


NO_MESSAGES: list[str | bytes] = [
    b"", b"\xff\x00garbage", "{}", "[]", "null", "12", '{"body": 1}', "x" * 20_000_000, "[" * 100_000,
]  # fmt: skip


def a_message(run_id: object) -> Json:
    """A Celery task message of ours, as it lies in Redis; `run_id` may be anything."""
    body = base64.b64encode(json.dumps([[run_id], {}, {}]).encode()).decode()
    headers = {"lang": "py", "task": "trainyard.train_run", "id": "1", "root_id": "1", "parent_id": None}
    properties = {
        "correlation_id": "1", "delivery_mode": 2, "priority": 0, "body_encoding": "base64", "delivery_tag": "1",
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
    }  # fmt: skip
    return {
        "body": body, "content-encoding": "utf-8", "content-type": "application/json",
        "headers": headers, "properties": properties,
    }  # fmt: skip


def odd_messages() -> list[str]:
    """Messages with a part missing or broken, and such that name no run."""
    run = a_message("x")
    broken = [{**run, "body": "!!!"}, {**run, "headers": {}}, {**run, "properties": {}}]
    ids = ["nobody", None, 5, ["a"], {"id": "a"}, "x" * 100_000, "\0", "../../etc/passwd", 1e999]
    return [json.dumps(one) for one in (*broken, *map(a_message, ids))]


def dangerous_messages(canary: str) -> list[str]:
    """A pickle that would make a file where it is opened, another task, a task of Celery's own, a deep body."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mknod, (canary,)

    run = a_message("x")
    bomb = base64.b64encode(pickle.dumps(Bomb())).decode()
    pickles = [
        {**run, "content-type": kind, "content-encoding": "binary", "body": bomb}
        for kind in ("application/x-python-serialize", "pickle", "application/x-yaml", "application/data")
    ]
    tasks = [
        {**run, "headers": {**run["headers"], "task": task}}
        for task in ("nobody.knows", "celery.backend_cleanup", "celery.chord_unlock", "os.system", "")
    ]
    deep = {**run, "body": base64.b64encode(b"[" * 100_000).decode()}
    return [json.dumps(one) for one in (*pickles, *tasks, deep)]


def waiting_message(yard: Yard) -> bytes:
    with yard.broker() as broker:
        (message,) = broker.lrange(QUEUE, 0, 0)
        assert isinstance(message, bytes)
        return message
