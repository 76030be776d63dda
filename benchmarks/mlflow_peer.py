"""The same points in MLflow: its own server, started the ordinary way on SQLite, spoken to over its REST API."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.table import row
from tests import processes

API = "/api/2.0/mlflow"
BATCH = 1_000  # the most metrics that MLflow takes in one request
READ = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"  # what its charts ask


@contextmanager
def server(python: str, directory: Path) -> Iterator[httpx.Client]:
    port = processes.free_port()
    store = ["--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"]
    files = ["--artifacts-destination", str(directory / "mlflow-artifacts")]
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        processes.running(
            "mlflow", [*command, *store, *files], directory=directory, env=env, cwd=directory
        ) as one,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=120) as http,
    ):
        processes.wait_for(
            lambda: processes.answers(f"http://127.0.0.1:{port}/health"), "MLflow", 240, process=one
        )
        yield http


def new_run(http: httpx.Client) -> str:
    body = {"experiment_id": "0", "start_time": int(time.time() * 1e3)}
    answer = http.post(f"{API}/runs/create", json=body)
    answer.raise_for_status()
    run_id: str = answer.json()["run"]["info"]["run_id"]
    return run_id


def log(http: httpx.Client, run_id: str, values: Sequence[float]) -> float:
    """Thousands of points a second; the bodies are made before the clock starts."""
    metrics: list[dict[str, Any]] = [
        {"key": "train/loss", "value": value, "timestamp": 1_700_000_000_000 + 10 * n, "step": n + 1}
        for n, value in enumerate(values)
    ]
    bodies = [{"run_id": run_id, "metrics": metrics[n : n + BATCH]} for n in range(0, len(metrics), BATCH)]
    began = time.perf_counter()
    for body in bodies:
        http.post(f"{API}/runs/log-batch", json=body).raise_for_status()
    return len(values) / (time.perf_counter() - began) / 1e3


def measure_writing(python: str | None, directory: Path, rounds: int) -> None:
    if python is None:
        print("| MLflow: not measured; name an interpreter that has it with --mlflow |")
        return
    with server(python, directory) as http:
        values = np.random.default_rng(0).normal(size=10_000).tolist()
        rates = [log(http, new_run(http), values) for _ in range(rounds)]
    row(f"MLflow, batches of {BATCH:,} (its most)", rates, "k")


def measure_reading(python: str | None, directory: Path, curves: Sequence[Sequence[float]]) -> None:
    if python is None:
        print("| MLflow: not measured; name an interpreter that has it with --mlflow |")
        return
    with server(python, directory) as http:
        ids = []
        for values in curves:
            ids.append(new_run(http))
            log(http, ids[-1], values)
        for points in (320, 1_000):
            query: list[tuple[str, str | int | float | bool | None]] = [("run_ids", run_id) for run_id in ids]
            query += [("metric_key", "train/loss"), ("max_results", str(points))]
            samples, size = [], 0
            for _ in range(6):
                began = time.perf_counter()
                with http.stream("GET", READ, params=query) as answer:
                    size = sum(map(len, answer.iter_raw()))
                    answer.raise_for_status()
                samples.append((time.perf_counter() - began) * 1e3)
            name = f"MLflow: {len(curves)} x {len(curves[0]):,}, {points} points"
            row(f"{name}: warm", samples[1:], "ms")
            row(f"{name}: on the wire", [size / 1e3], "kB")
