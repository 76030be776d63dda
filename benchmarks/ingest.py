"""Writing points over HTTP: `python -m benchmarks.ingest [--mlflow PYTHON]`, one client process, one web process.

Bodies are made before the clock starts; what is timed is the request, to the answer after the commit. The second part
times a script that builds its bodies itself, and one that logs point by point with `trainyard.Client`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks import mlflow_peer
from benchmarks.table import heading, row
from tests import processes
from trainyard.client import Client

TOTAL = 200_000  # points a round
BATCHES = (1_000, 5_000, 20_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow", metavar="PYTHON", help="an interpreter with mlflow, to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    heading("Points a second over HTTP, thousands")
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as home:
        directory = Path(home)
        with processes.redis_server(directory) as redis:
            env = processes.trainyard_env(directory, broker_url=redis.broker_url)
            processes.migrate(env)
            with (
                processes.web_process(env, directory=directory) as web,
                httpx.Client(base_url=web.url, trust_env=False, timeout=60) as http,
            ):
                server = psutil.Process(web.process.pid)
                for batch in BATCHES:
                    before = server.cpu_times()
                    rates = [posted(http, batch) for _ in range(args.rounds)]
                    row(f"one metric, batches of {batch:,}", rates, "k", "> 200 k" if batch >= 5_000 else "")
                    after = server.cpu_times()
                    used = after.user + after.system - before.user - before.system
                    row("  the same, points a second of its CPU", [args.rounds * TOTAL / used / 1e3], "k")
                rates = [posted(http, 5_000, metrics=4) for _ in range(args.rounds)]
                row("four metrics, batches of 5,000 steps", rates, "k")
                row(
                    "the same, bodies made by the script",
                    [made(http, 5_000) for _ in range(args.rounds)],
                    "k",
                )
                row("Client.external, log() a point", [logged(web.url) for _ in range(args.rounds)], "k")
        mlflow_peer.measure_writing(args.mlflow, directory, args.rounds)


def new_run(http: httpx.Client) -> str:
    answer = http.post("/api/v1/runs", json={"external": True})
    answer.raise_for_status()
    run_id: str = answer.json()["id"]
    return run_id


def body(first: int, batch: int, metrics: int) -> bytes:
    values = np.random.default_rng(first).normal(size=batch).tolist()
    times = (time.time() + np.arange(batch) * 0.01).tolist()
    named = {f"m{n}": values for n in range(metrics)}
    return json.dumps({"step": list(range(first, first + batch)), "time": times, "values": named}).encode()


def posted(http: httpx.Client, batch: int, metrics: int = 1) -> float:
    """Thousands of points a second, of about 200,000 points in bodies that were made before."""
    path, total = f"/api/v1/runs/{new_run(http)}/metrics", max(1, TOTAL // batch // metrics)
    bodies = [body(1 + n * batch, batch, metrics) for n in range(total)]
    began = time.perf_counter()
    for content in bodies:
        http.post(path, content=content, headers={"content-type": "application/json"}).raise_for_status()
    return total * batch * metrics / (time.perf_counter() - began) / 1e3


def made(http: httpx.Client, batch: int) -> float:
    path, total = f"/api/v1/runs/{new_run(http)}/metrics", TOTAL // batch
    values = np.random.default_rng(0).normal(size=batch).tolist()
    began = time.perf_counter()
    for first in range(1, total * batch, batch):
        points = {"step": list(range(first, first + batch)), "values": {"m": values}}
        http.post(path, json=points).raise_for_status()
    return total * batch / (time.perf_counter() - began) / 1e3


def logged(url: str, points: int = 50_000) -> float:
    with Client(url, "") as client:
        began = time.perf_counter()
        with client.external("benchmark") as run:
            for step in range(1, points + 1):
                run.log({"m": step * 0.5}, step)
        return points / (time.perf_counter() - began) / 1e3


if __name__ == "__main__":
    main()
