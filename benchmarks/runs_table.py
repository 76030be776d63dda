"""The table of runs at 1,000 and 10,000 runs: `python -m benchmarks.runs_table`.

Every run has a spec, tags and summaries of six metrics, as a training leaves them. A figure is the time in one process
from the request to the whole answer: routing, SQL, JSON or HTML, without a network; beside it the CPU time of that
process, which a busy machine changes less. With `--mlflow PYTHON`, an interpreter that has MLflow, its client's
`search_runs` reads as many runs with the same parameters and last values from MLflow's own SQLite store, without a
network either, in the same minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from sqlalchemy import insert

from app.db import Database
from app.main import create_app
from app.migrate import migrate
from app.models import MetricSummary, Run
from app.runs import new_id
from app.settings import Settings
from benchmarks.table import heading, row
from ml.catalog import MODELS
from ml.spec import RunSpec

METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "train/lr", "system/memory")
MLFLOW = """
import json, sys, tempfile, time
from mlflow.tracking import MlflowClient
from mlflow.entities import Metric, Param
rows, samples = json.loads(sys.stdin.read()), []
client = MlflowClient("sqlite:///" + tempfile.mkdtemp() + "/mlflow.db")
experiment = client.create_experiment("bench")
now = int(time.time() * 1000)
for params, metrics in rows:
    run = client.create_run(experiment)
    points = [Metric(k, v, now, 1) for k, v in metrics.items()]
    client.log_batch(run.info.run_id, points, [Param(k, str(v)) for k, v in params.items()])
for _ in range(int(sys.argv[1]) + 1):
    began, cpu_before = time.perf_counter(), time.process_time()
    found = client.search_runs([experiment], max_results=1000)
    samples.append(((time.perf_counter() - began) * 1e3, (time.process_time() - cpu_before) * 1e3))
assert len(found) == min(1000, len(rows))
print(json.dumps(list(zip(*samples[1:]))))
"""


def fill(db: Database, count: int, seed: int = 0) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Write `count` finished runs with summaries; their parameters and last values."""
    chance, written, rows, summaries = random.Random(seed), [], [], []
    at = time.time() - 60.0 * count
    for number in range(count):
        spec = RunSpec(
            model=chance.choice(list(MODELS)),
            lr=chance.choice([0.001, 0.003, 0.01, 0.03, 0.1]),
            batch_size=chance.choice([32, 64, 128]),
            seed=number,
        )
        run_id, accuracy = new_id(), chance.uniform(0.5, 0.999)
        values = [chance.expovariate(2), accuracy, chance.expovariate(1), accuracy - 0.01, spec.lr, 1e9]
        rows.append(run_row(run_id, number, spec, at + 60 * number, chance))
        summaries += [summary_row(run_id, name, value) for name, value in zip(METRICS, values, strict=True)]
        written.append((spec.model_dump(mode="json"), dict(zip(METRICS, values, strict=True))))
    with db.begin() as s:
        s.execute(insert(Run), rows)
        s.execute(insert(MetricSummary), summaries)
    return written


def run_row(run_id: str, number: int, spec: RunSpec, at: float, chance: random.Random) -> dict[str, Any]:
    return {
        "id": run_id, "name": f"{MODELS[spec.model].title} · lr {spec.lr:g} · seed {number}", "state": "finished",
        "experiment": f"sweep {number // 100}", "tags": chance.sample(["baseline", "retry", "homework"], number % 3),
        "notes": "", "style": number % 32, "spec": spec.model_dump(mode="json"), "resolved": {"device": "cpu"},
        "model": spec.model, "dataset": spec.dataset, "attempt": 1, "created_at": at, "queued_at": at,
        "started_at": at + 1, "ended_at": at + 50, "updated_at": at + 50, "revision": 90, "seq": 80,
        "step": spec.total_steps, "total_steps": spec.total_steps, "epoch": spec.epochs,
        "steps_per_epoch": spec.steps_per_epoch,
    }  # fmt: skip


def summary_row(run_id: str, metric: str, value: float) -> dict[str, Any]:
    return {
        "run_id": run_id, "metric": metric, "count": 2814, "nonfinite": 0, "last": value, "last_step": 2814,
        "min": value * 0.9, "min_step": 2700, "max": value * 1.001, "max_step": 2800,
    }  # fmt: skip


class Timed(NamedTuple):
    """Milliseconds of each round: on the clock, and of this process's CPU."""

    wall: list[float]
    cpu: list[float]


def timed(action: Callable[[], Any], rounds: int) -> Timed:
    """The first round is left out, it warms up."""
    wall, cpu = [], []
    for _ in range(rounds + 1):
        began, cpu_before = time.perf_counter(), time.process_time()
        action()
        wall.append((time.perf_counter() - began) * 1e3)
        cpu.append((time.process_time() - cpu_before) * 1e3)
    return Timed(wall[1:], cpu[1:])


def report(figure: str, samples: Timed, goal: str = "") -> None:
    row(figure, samples.wall, "ms", goal)
    row("  CPU of it", samples.cpu, "ms")


def measure(count: int, rounds: int, mlflow: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as home, asyncio.Runner() as loop:
        settings = Settings(data_dir=Path(home))
        migrate(settings.database_url)
        app = create_app(settings)
        written = fill(app.state.db, count)
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://127.0.0.1:8000",
            headers={"accept": "text/html"},
        )

        def get(path: str) -> Callable[[], None]:
            def action() -> None:
                answer = loop.run(http.get(path))
                assert answer.status_code == 200, answer.text

            return action

        def cold() -> None:
            app.state.briefs.forget()
            get("/api/v1/runs?limit=1000")()

        heading(f"The table of {count:,} runs, six metrics each")
        goal = "< 10 ms" if count == 1_000 else ""
        report("API, 1,000 rows with summaries", timed(get("/api/v1/runs?limit=1000"), rounds), goal)
        report("the same, nothing kept from before", timed(cold, rounds))
        report(
            "API, 50 rows: lr > 0.01 AND val/accuracy >= 0.9", timed(get(f"/api/v1/runs?q={QUERY}"), rounds)
        )
        report("API, 50 rows by val/accuracy", timed(get("/api/v1/runs?sort=-val/accuracy"), rounds))
        report("API, 50 rows by lr", timed(get("/api/v1/runs?sort=lr"), rounds))
        report("page, newest first", timed(get("/"), rounds))
        report("page, filtered and by val/accuracy", timed(get(f"/?q={QUERY}&sort=-val/accuracy"), rounds))
        if mlflow is not None:
            report("MLflow search_runs, 1,000 rows", timed_mlflow(mlflow, rounds, written))


def timed_mlflow(python: str, rounds: int, runs: list[tuple[dict[str, Any], dict[str, float]]]) -> Timed:
    command = [python, "-c", MLFLOW, str(rounds)]
    done = subprocess.run(command, input=json.dumps(runs), capture_output=True, text=True, check=True)
    return Timed(*json.loads(done.stdout.splitlines()[-1]))


QUERY = "lr+%3E+0.01+AND+val/accuracy+%3E%3D+0.9"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--mlflow", metavar="PYTHON", help="an interpreter that has MLflow; 1,000 runs only")
    args = parser.parse_args()
    for count in args.runs:
        measure(count, args.rounds, args.mlflow if count == 1_000 else None)


if __name__ == "__main__":
    main()
