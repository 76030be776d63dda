"""Reading curves: `python -m benchmarks.series [--mlflow PYTHON]`, 1,000 points a run, everything on this machine.

The points are written through `app.runs` as a script's or trainer's are, compacted by the web process itself, and read
over HTTP. Values are float64 noise, which packs worst; what a trainer logs is float32 and half as large. Cold is the
first such question to a fresh web process, with the file in the page cache; warm is the same question again, answered
from what is kept encoded; anew asks a window that nobody has asked before. MLflow, when an interpreter that has it is
named, gets the points of 10 x 10,000 in its own SQLite and is asked as its charts ask, for 320 points and for 1,000.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import psutil
from sqlmodel import col, func, select

from app import runs
from app.db import Database
from app.models import MetricChunk, Run
from app.runs import NewRun
from app.series import make_block
from benchmarks import mlflow_peer
from benchmarks.table import heading, row
from tests import processes

METRIC = "train/loss"
GOALS = {
    (10, 10_000): {"warm": "< 15 ms", "cold": "< 80 ms", "wire": "< 120 kB"},
    (100, 10_000): {"warm": "< 250 ms", "cold": "< 250 ms"},
    (10, 1_000_000): {"warm": "< 300 ms", "cold": "< 300 ms"},
}
_windows = count(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow", metavar="PYTHON", help="an interpreter with mlflow, to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes a case")
    parser.add_argument("--small", action="store_true", help="leave out the ten runs of 1,000,000 steps")
    args = parser.parse_args()
    cases = [case for case in GOALS if not (args.small and case[1] > 10_000)]
    heading("Curves, 1,000 points a run")
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as home:
        directory = Path(home)
        with processes.redis_server(directory) as redis:
            env = processes.trainyard_env(directory, broker_url=redis.broker_url)
            processes.migrate(env)
            db = Database(f"sqlite:///{directory / 'trainyard.db'}")
            live = fill(db, 10, 10_000, flush=25)
            measure_live(env, directory, live)
            for case in cases:
                measure(env, directory, db, case, args.rounds)
            db.dispose()
        mlflow_peer.measure_reading(args.mlflow, directory, [curve(10_000, n).tolist() for n in range(10)])


def curve(points: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    noise = np.random.default_rng(seed).normal(0, 0.05, points)
    values: np.ndarray[tuple[int], np.dtype[np.float64]] = 2.3 / np.sqrt(1 + np.arange(points) / 100) + noise
    return values


def fill(db: Database, run_count: int, points: int, flush: int) -> list[str]:
    """Ids of running runs of one metric, written `flush` points at a time."""
    ids = []
    for seed in range(run_count):
        with db.begin() as s:
            run_id = runs.create_run(s, NewRun(None), max_queued=10)[0].id
        values, times = curve(points, seed), time.time() + np.arange(points) * 0.01
        for group in range(0, points, flush * 40):
            with db.begin() as s:  # several flushes in one commit: only the filling is quicker so
                for first in range(group, min(points, group + flush * 40), flush):
                    part = slice(first, first + flush)
                    steps = np.arange(first + 1, first + 1 + len(values[part]))
                    block = make_block(steps, np.asarray(times[part], np.float64), values[part])
                    runs.append_external(s, run_id, None, {METRIC: block})
        ids.append(run_id)
    return ids


@contextmanager
def web(env: dict[str, str], directory: Path) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    with (
        processes.web_process(env, directory=directory) as process,
        httpx.Client(base_url=process.url, trust_env=False, timeout=60) as http,
    ):
        yield http, psutil.Process(process.process.pid)


def ask(
    http: httpx.Client, ids: Sequence[str], *, form: str = "typed", anew: bool = False, tag: str = ""
) -> tuple[float, int, str]:
    """Milliseconds to the last byte, bytes of the body as sent, and the tag."""
    query: list[tuple[str, str | int | float | bool | None]] = [("run", run_id) for run_id in ids]
    query += [("metric", METRIC), ("points", "1000"), ("format", form)]
    query += [("to", f"{1e9 + next(_windows):.0f}")] if anew else []
    began = time.perf_counter()
    with http.stream("GET", "/api/v1/series", params=query, headers={"if-none-match": tag}) as answer:
        size = sum(map(len, answer.iter_raw()))
        assert answer.status_code == (304 if tag else 200)
    return (time.perf_counter() - began) * 1e3, size, answer.headers["etag"]


def used_ms(server: psutil.Process) -> float:
    """Its own CPU time so far, which a busy machine lengthens less than the time on the clock."""
    times = server.cpu_times()
    return float(times.user + times.system) * 1e3


def measure_live(env: dict[str, str], directory: Path, ids: Sequence[str]) -> None:
    """Of runs that go on, 25 points a flush: the newest flushes are not compacted yet."""
    with web(env, directory) as (http, _):
        ask(http, ids)
        anew = [ask(http, ids, anew=True)[0] for _ in range(20)]
    row("10 x 10,000, running (400 flushes each): anew", anew, "ms")


def measure(env: dict[str, str], directory: Path, db: Database, case: tuple[int, int], rounds: int) -> None:
    run_count, points = case
    name, goals = f"{run_count} x {points:,}", GOALS[case]
    ids = fill(db, run_count, points, flush=500 if points <= 10_000 else 5_000)
    with db.begin() as s:
        for run_id in ids:
            runs.finish_external(s, run_id, "finished", None)
    with web(env, directory):
        processes.wait_for(lambda: is_compacted(db), "the compactor", 300)
    cold: list[float] = []
    cpu: list[float] = []
    cold_cpu: list[float] = []
    for _ in range(rounds):
        with web(env, directory) as (http, server):
            http.get("/healthz")  # the connection
            before = used_ms(server)
            took, wire, tag = ask(http, ids)
            cold.append(took)
            cold_cpu.append(used_ms(server) - before)
            warm = [ask(http, ids)[0] for _ in range(20)]
            before = used_ms(server)
            anew = [ask(http, ids, anew=True)[0] for _ in range(20)]
            cpu.append((used_ms(server) - before) / 20)
            plain_wire = ask(http, ids, form="json")[1]
            unchanged = [ask(http, ids, tag=tag)[0] for _ in range(20)]
    row(f"{name}: cold", cold, "ms", goals["cold"])
    row(f"{name}: cold, CPU of the server", cold_cpu, "ms")
    row(f"{name}: warm, the same question", warm, "ms", goals["warm"])
    row(f"{name}: warm, anew", anew, "ms", goals["warm"])
    row(f"{name}: anew, CPU of the server", cpu, "ms")
    row(f"{name}: unchanged (304)", unchanged, "ms")
    row(f"{name}: on the wire, typed, gzip", [wire / 1e3], "kB", goals.get("wire", ""))
    row(f"{name}: on the wire, plain lists, gzip", [plain_wire / 1e3], "kB")
    with db.read() as s:
        chunks = s.exec(
            select(func.count()).select_from(MetricChunk).where(col(MetricChunk.run_id) == ids[0])
        ).one()
    row(f"{name}: chunks a series", [chunks], "")


def is_compacted(db: Database) -> bool:
    with db.read() as s:
        waiting = select(func.count()).select_from(Run)
        return (
            s.exec(waiting.where(col(Run.seq) > col(Run.compacted_seq), col(Run.state) == "finished")).one()
            == 0
        )


if __name__ == "__main__":
    main()
