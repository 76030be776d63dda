"""A class at work: `python -m benchmarks.load [--minutes 10] [--database sqlite|postgres]`.

Eight processes write as trainers do (`benchmarks.writer`), 400 points a second each; 200 readers of the event stream
follow one to four of the runs each (`benchmarks.streams`); a script asks for the list of runs four times a second. One
web process serves all of it, from a database with 1,000 finished runs. Exits with 1 when a point was lost or doubled
on any way, or when the database was locked.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from app.db import Database
from app.settings import database_url
from benchmarks.runs_table import fill
from benchmarks.table import heading, percentile, row
from tests import processes
from tests.processes import Process, Web

RUNS_BEFORE = 1_000
PROBE_S = 0.25
DRAIN_S = 5.0  # for the last flushes to arrive
WARM_UP_S = 30.0  # connections, caches and the allocator's arenas have their size by then
SPEC = {"dataset": "digits", "epochs": 10_000}


@dataclass
class Probe:
    """Looks at the web process from outside, in a thread, until `stop` is set."""

    web: Web
    wal: Path
    stop: threading.Event = field(default_factory=threading.Event)
    list_ms: list[float] = field(default_factory=list)
    rss_mb: list[tuple[float, float]] = field(default_factory=list)
    wal_mb: list[float] = field(default_factory=list)

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.web.url.removeprefix("http://"), timeout=30)
        server, began = psutil.Process(self.web.process.pid), time.monotonic()
        while not self.stop.wait(PROBE_S):
            asked_at = time.perf_counter()
            connection.request("GET", "/api/v1/runs")
            answer = connection.getresponse()
            answer.read()
            self.list_ms.append((time.perf_counter() - asked_at) * 1e3)
            assert answer.status == 200, answer.status
            self.rss_mb.append((time.monotonic() - began, server.memory_info().rss / 1e6))
            self.wal_mb.append(self.wal.stat().st_size / 1e6 if self.wal.exists() else 0.0)


@contextmanager
def probing(web: Web, wal: Path) -> Iterator[Probe]:
    probe = Probe(web, wal)
    thread = threading.Thread(target=probe.run, name="probe")
    thread.start()
    try:
        yield probe
    finally:
        probe.stop.set()
        thread.join()


def measure(directory: Path, env: dict[str, str], writers: int, clients: int, minutes: float) -> bool:
    """Whether every point that was written is stored, and was streamed once to everybody who watched."""
    processes.migrate(env)
    db = Database(database_url(env.get("TRAINYARD_DATABASE_URL", f"sqlite:///{directory / 'trainyard.db'}")))
    fill(db, RUNS_BEFORE)
    db.dispose()
    with ExitStack() as stack:
        web = stack.enter_context(processes.web_process(env, directory=directory))
        api = stack.enter_context(httpx.Client(base_url=web.url, trust_env=False, timeout=60))
        server = psutil.Process(web.process.pid)
        idle_mb = server.memory_info().rss / 1e6
        runs = [
            api.post("/api/v1/runs", json={"spec": SPEC}).raise_for_status().json()["id"]
            for _ in range(writers)
        ]
        streams = stack.enter_context(
            started("streams", [web.url, clients, directory / "streams.npz", *runs], env, directory)
        )
        probe = stack.enter_context(probing(web, directory / "trainyard.db-wal"))
        cpu_before, began = server.cpu_times(), time.monotonic()
        at_work = [
            stack.enter_context(
                started("writer", [run, minutes * 60, directory / f"{run}.npz"], env, directory)
            )
            for run in runs
        ]
        for writer in at_work:
            assert writer.popen.wait(minutes * 60 + 120) == 0, writer.output()
        cpu_after, took_s = server.cpu_times(), time.monotonic() - began
        time.sleep(DRAIN_S)
        probe.stop.set()
        streams.stop()
        seen = dict(np.load(directory / "streams.npz"))
        written = [dict(np.load(directory / f"{run}.npz")) for run in runs]
        used_s = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
        visible = [count_points(api, run) for run in runs]
        print_times(written, seen, probe)
        row("memory of the web process before, idle", [idle_mb], "MB")
        print_memory(probe)
        row("CPU of the web process", [100 * used_s / took_s], "%")
        row("CPU of the readers' process", [100 * float(seen["cpu_s"]) / took_s], "%")
        return print_points(written, seen, visible)


@contextmanager
def started(module: str, arguments: list[Any], env: dict[str, str], directory: Path) -> Iterator[Process]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *(str(argument) for argument in arguments)]
    with processes.running(module, command, directory=directory, env=env) as process:
        yield process


def count_points(api: httpx.Client, run: str) -> int:
    """Points of a run that a reader is told of: in all of its series."""
    summary = api.get(f"/api/v1/runs/{run}").raise_for_status().json()["summary"]
    found = api.get("/api/v1/series", params={"run": run, "metric": list(summary), "points": 10})
    return sum(series["total"] for series in found.raise_for_status().json()["series"])


def print_times(written: list[Any], seen: Any, probe: Probe) -> None:
    flush_ms = (np.concatenate([writer["seconds"] for writer in written]) * 1e3).tolist()
    row("flush, asked to committed", flush_ms, "ms")
    row("the same, 99th percentile", [percentile(flush_ms, 0.99)], "ms", "< 250 ms")
    row("longest that a training loop was held up", [float(w["held_s"]) * 1e3 for w in written], "ms")
    event_ms = np.zeros(len(seen["at"]))
    for run, writer in enumerate(written):
        mine = seen["run"] == run
        event_ms[mine] = (seen["at"][mine] - writer["committed"][seen["seq"][mine] - 1]) * 1e3
    row("flush committed to event received", event_ms.tolist(), "ms")
    row("the same, 99th percentile", [percentile(event_ms.tolist(), 0.99)], "ms", "< 500 ms")
    delay_ms = seen["delays"] * 1e3
    row("step done to event received", delay_ms, "ms")
    row("the same, 99th percentile", [percentile(delay_ms, 0.99)], "ms")
    row("GET /api/v1/runs, the newest 50", probe.list_ms, "ms")
    row("the same, 99th percentile", [percentile(probe.list_ms, 0.99)], "ms", "< 200 ms")


def print_memory(probe: Probe) -> None:
    warm = [mb for at, mb in probe.rss_mb if at > WARM_UP_S] or [mb for _, mb in probe.rss_mb]
    start, end = np.median(warm[:20]), np.median(warm[-20:])
    row(f"  after {WARM_UP_S:g} s of load", [start], "MB")
    row("  at the end", [end], "MB")
    row("  growth under load", [end - start], "MB", "< 20 MB")
    row("SQLite's write-ahead log", probe.wal_mb, "MB")


def print_points(written: list[Any], seen: Any, visible: list[int]) -> bool:
    """Also says whether all three counts agree, and nothing was locked, cut off, lost or doubled."""
    points = [int(writer["points"]) for writer in written]
    streamed = [int(count) for count in seen["points"]]
    errors = [str(error) for writer in written for error in writer["errors"]]
    locked = [error for error in errors if "locked" in error]
    got, due = count_flushes(seen)
    row("points written, a run", points, "")
    row("points visible, a run", visible, "")
    row("points streamed, a run", streamed, "")
    row("flushes received, a reader", got.sum(axis=1), "")
    row("  more than there were (less: fewer)", (got - due)[seen["watching"]].tolist(), "")
    print(f"\nLocked: {len(locked)}; other errors of flushes: {len(errors) - len(locked)}; "
          f"readers: {', '.join(map(str, seen['lost'])) or 'nothing lost, doubled or cut off'}; "
          f"readers that did not get every flush once: {(got != due).any(axis=1).sum()} of {len(got)}")  # fmt: skip
    return points == visible == streamed and not locked and not len(seen["lost"]) and bool((got == due).all())


def count_flushes(seen: Any) -> tuple[Any, Any]:
    """[readers, runs]: how many flushes each reader got of each run, and how many it should have got."""
    watching = seen["watching"]
    got = np.zeros(watching.shape, dtype=np.int64)
    np.add.at(got, (seen["reader"], seen["run"]), 1)
    flushes = [len(np.unique(seen["seq"][seen["run"] == run])) for run in range(watching.shape[1])]
    return got, watching * np.array(flushes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--clients", type=int, default=200)
    args = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trainyard-load-")))
        redis = stack.enter_context(processes.redis_server(directory))
        url = None
        if args.database == "postgres":
            url = stack.enter_context(processes.postgres_server(directory, durable=True)).create_database()
        env = processes.trainyard_env(directory, database_url=url, broker_url=redis.broker_url)
        heading(
            f"Load: {args.writers} writers, {args.clients} readers, {args.minutes:g} minutes, {args.database}"
        )
        good = measure(directory, env, args.writers, args.clients, args.minutes)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
