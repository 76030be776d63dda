"""How fast the web process answers, and how much memory it holds: `python -m benchmarks.startup`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from benchmarks.table import heading, row
from tests import processes

STARTS = 7


def main() -> None:
    seconds, idle_mb, used_mb = [], [], []
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as home:
        directory = Path(home)
        with processes.redis_server(directory) as redis:
            env = processes.trainyard_env(directory, broker_url=redis.broker_url)
            processes.migrate(env)
            for _ in range(STARTS):
                port = processes.free_port()
                url = f"http://127.0.0.1:{port}"
                began = time.perf_counter()
                with processes.running(
                    "web",
                    [sys.executable, "-m", "app"],
                    directory=directory,
                    env={**env, "TRAINYARD_PORT": str(port)},
                ) as web:
                    processes.wait_for(lambda: processes.answers(f"{url}/healthz"), "a 200", process=web)  # noqa: B023
                    seconds.append(time.perf_counter() - began)
                    idle_mb.append(resident_mb(web.pid))
                    use(url)
                    used_mb.append(resident_mb(web.pid))
    heading("Web process")
    row("start to first 200", seconds, "s", "< 1.5 s")
    row("resident memory, idle", idle_mb, "MB", "< 100 MB")
    row("resident memory, after pages and submissions", used_mb, "MB", "< 100 MB")


def resident_mb(pid: int) -> float:
    memory: float = psutil.Process(pid).memory_info().rss / 1e6
    return memory


def use(url: str) -> None:
    """What a first visitor does: pages, the schema, a run with points, its series."""
    with httpx.Client(base_url=url, trust_env=False) as http:
        for path in ("/readyz", "/", "/new", "/openapi.json", "/api/v1/catalog"):
            http.get(path, headers={"accept": "text/html"})
        run = http.post("/api/v1/runs", json={"external": True}).json()
        steps = list(range(1, 5_001))
        http.post(f"/api/v1/runs/{run['id']}/metrics", json={"step": steps, "values": {"train/loss": steps}})
        http.get("/api/v1/series", params={"run": run["id"]})
        http.post("/api/v1/runs", json={"spec": {"dataset": "digits"}})


if __name__ == "__main__":
    main()
