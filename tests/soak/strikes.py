"""What the killer does. A strike is a generator: it strikes, yields until all is well again, and returns how many
seconds that took: since the strike, or since the part was started again where it stayed away for a while."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Generator, Mapping
from typing import TypeAlias

import psutil

from app import workers
from app.errors import TrainyardError
from tests.faults.yard import kill
from tests.processes import Process
from tests.soak.grounds import Grounds, wait

Strike: TypeAlias = Generator[None, None, float | None]


def kill_trainer(grounds: Grounds, chance: random.Random) -> Strike:
    """The kernel ends one that takes too much memory."""
    return (yield from _strike_trainer(grounds, chance, signal.SIGKILL, "trainer killed"))


def hang_trainer(grounds: Grounds, chance: random.Random) -> Strike:
    return (yield from _strike_trainer(grounds, chance, signal.SIGSTOP, "trainer hung"))


def _strike_trainer(grounds: Grounds, chance: random.Random, sig: signal.Signals, kind: str) -> Strike:
    running, busy = grounds.running(), grounds.busy_trainers()
    busy = [(run_id, trainer) for run_id, trainer in busy if run_id in running]
    if not busy:
        return None
    run_id, trainer = chance.choice(busy)
    at = time.time()
    try:
        trainer.send_signal(sig)
    except psutil.NoSuchProcess:
        return None
    grounds.strikes[kind] += 1
    return (yield from _until_let_go(grounds, {run_id: running[run_id]}, at))


def _until_let_go(grounds: Grounds, attempts: Mapping[str, int], at: float) -> Strike:
    """Until none of these attempts holds its run any more."""
    last = at
    for run_id, attempt in attempts.items():
        while (left := grounds.left_running(run_id, attempt)) is None:
            yield
        last = max(last, left)
    return last - at if attempts else None


def kill_worker(grounds: Grounds, chance: random.Random) -> Strike:
    """With its trainers; another one is started in its place."""
    number = chance.choice(sorted(grounds.workers))
    held = grounds.running(grounds.worker_name(number))
    at = time.time()
    grounds.strikes["worker killed"] += 1
    grounds.kill_worker(number)
    yield from wait(chance.uniform(0, 4))
    grounds.start_worker(number)
    return (yield from _until_let_go(grounds, held, at))


def restart_worker(grounds: Grounds, chance: random.Random) -> Strike:
    """As a deployment does: SIGTERM, then another one. The time until it has ended."""
    number = chance.choice(sorted(grounds.workers))
    process = grounds.workers[number][0]
    grounds.down.add(f"worker {number}")
    at = time.time()
    process.popen.send_signal(signal.SIGTERM)
    grounds.strikes["worker restarted"] += 1
    return (yield from _replace_ended(grounds, number, process, at))


def drain_worker(grounds: Grounds, chance: random.Random) -> Strike:
    """As a person asks before the host goes away. The time until it has ended, with its runs or without them."""
    if "database" in grounds.down:
        return None  # nobody can ask now
    number = chance.choice(sorted(grounds.workers))
    process, name = grounds.workers[number][0], grounds.worker_name(number)
    at = time.time()
    try:
        with grounds.yard.db.begin() as s:
            workers.request_drain(s, name, at_once=chance.random() < 0.5)
    except TrainyardError:
        return None  # the worker is not there yet
    grounds.down.add(f"worker {number}")
    grounds.strikes["worker drained"] += 1
    return (yield from _replace_ended(grounds, number, process, at))


def _replace_ended(grounds: Grounds, number: int, process: Process, at: float) -> Strike:
    """Until the worker has ended in good order."""
    while process.popen.poll() is None:
        yield
    took = time.time() - at
    grounds.drop_worker(number)
    grounds.start_worker(number)
    code, told = process.popen.returncode, process.output()
    early = (
        code == -signal.SIGTERM and "is ready" not in told
    )  # it had not got so far as to listen to signals
    assert code == 0 or early, f"a worker ended with {code}: {told[-2000:]}"
    return took


def kill_web(grounds: Grounds, chance: random.Random) -> Strike:
    grounds.strikes["web killed"] += 1
    return (yield from _strike_web(grounds, chance, signal.SIGKILL))


def restart_web(grounds: Grounds, chance: random.Random) -> Strike:
    grounds.strikes["web restarted"] += 1
    return (yield from _strike_web(grounds, chance, signal.SIGTERM))


def _strike_web(grounds: Grounds, chance: random.Random, sig: signal.Signals) -> Strike:
    process = grounds.yard.web.process
    grounds.down.add("web")
    os.kill(process.pid, sig)
    while process.popen.poll() is None:
        yield
    yield from wait(chance.uniform(0, 3))
    at = time.time()
    grounds.launch_web()
    while not grounds.web_answers():
        grounds.yard.web.process.check()
        yield
    grounds.down.discard("web")
    return time.time() - at


def kill_redis(grounds: Grounds, chance: random.Random) -> Strike:
    """It comes back empty. The time until a run is claimed again, which may have to wait for a free slot."""
    grounds.down.add("Redis")
    grounds.strikes["Redis killed"] += 1
    kill(grounds.yard.redis.process)
    yield from wait(chance.uniform(0.5, 8))
    grounds.start_redis()
    grounds.down.discard("Redis")
    at = time.time()
    while (claimed := grounds.first_claim(at)) is None:
        yield
    return claimed - at


def take_database(grounds: Grounds, chance: random.Random) -> Strike:
    """Postgres is stopped at once and comes back; of SQLite another process holds the lock, at times for longer than
    anybody waits for it. The time until something is written again."""
    grounds.strikes["database away"] += 1
    if grounds.postgres is None:
        at = yield from _lock_sqlite(grounds, chance.uniform(1, 14))
    else:
        at = yield from _stop_postgres(grounds, chance.uniform(0.5, 6))
    while (written := grounds.first_flush(at)) is None:
        yield
    return written - at


def _lock_sqlite(grounds: Grounds, seconds: float) -> Generator[None, None, float]:
    while True:
        with grounds.sqlite_lock() as ours:
            if ours:
                grounds.down.add("database")
                yield from wait(seconds)
                break
        yield
    grounds.down.discard("database")
    return time.time()


def _stop_postgres(grounds: Grounds, seconds: float) -> Generator[None, None, float]:
    assert grounds.database is not None
    grounds.down.add("database")
    os.kill(grounds.database.pid, signal.SIGQUIT)  # its immediate stop: as a crash, so it must recover
    while grounds.database.popen.poll() is None:
        yield
    yield from wait(seconds)
    grounds.start_postgres()
    grounds.down.discard("database")
    return time.time()


# By weight: what happens more often to people is struck more often.
KINDS: dict[str, tuple[float, Callable[[Grounds, random.Random], Strike]]] = {
    "trainer killed": (5, kill_trainer),
    "trainer hung": (1, hang_trainer),
    "worker killed": (2, kill_worker),
    "worker restarted": (1, restart_worker),
    "worker drained": (1, drain_worker),
    "Redis killed": (2, kill_redis),
    "web killed": (2, kill_web),
    "web restarted": (1, restart_web),
    "database away": (2, take_database),
}
ALONE = {"Redis killed": "Redis", "web killed": "web", "web restarted": "web", "database away": "database",
         "worker killed": "worker", "worker restarted": "worker",
         "worker drained": "worker"}  # what can only be struck once at a time  # fmt: skip
