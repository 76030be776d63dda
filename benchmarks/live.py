"""From the click to the first loss, and from the step to the stream: `python -m benchmarks.live`.

Redis, web process, worker with two slots and (with --browser) Chromium share the machine, as they do at a user's. The
runs train on MNIST when TRAINYARD_DATASETS has it, on digits otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.table import heading, percentile, row
from ml.catalog import DATASETS
from tests import processes

SUBMISSIONS = 7
LENET: dict[str, Any] = {
    "model": "lenet",
    "lr": 0.05,
    "momentum": 0.9,
    "model_options": {"activation": "relu"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--browser", action="store_true", help="also measure in Chromium, to the curve on the page"
    )
    parser.add_argument("--seconds", type=float, default=30, help="how long to follow two runs")
    args = parser.parse_args()
    root = Path(os.environ.get("TRAINYARD_DATASETS", "/nonexistent"))
    dataset = "mnist" if DATASETS["mnist"].on_disk(root) else "digits"
    with (
        tempfile.TemporaryDirectory(prefix="trainyard-bench-") as home,
        processes.redis_server(Path(home)) as redis,
    ):
        directory = Path(home)
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        processes.migrate(env)
        with (
            processes.web_process(env, directory=directory) as web,
            processes.worker_process(env, 2, directory=directory),
            httpx.Client(base_url=web.url, trust_env=False, timeout=30) as http,
        ):
            processes.wait_for(lambda: http.get("/api/v1/workers").json()["workers"], "the worker", 60)
            heading(f"Live, {dataset}")
            first = [submit_to_first_loss(http, dataset) for _ in range(SUBMISSIONS)]
            row("submit to first loss in the stream", first, "s", "< 2 s")
            if args.browser:
                row("click to first loss drawn in Chromium", in_browser(web.url, http, dataset), "s", "< 2 s")
            delays = step_to_event(http, dataset, args.seconds)
            row("step done to event received, two runs", delays, "s")
            row("the same, 99th percentile", [percentile(delays, 0.99)], "s", "< 0.5 s")


def submit(http: httpx.Client, **spec: Any) -> str:
    answer = http.post("/api/v1/runs", json={"spec": spec})
    answer.raise_for_status()
    run_id: str = answer.json()["id"]
    return run_id


def submit_to_first_loss(http: httpx.Client, dataset: str) -> float:
    wait_until_warm(http)
    began = time.perf_counter()
    run_id = submit(http, dataset=dataset, train_size=1_000, val_size=200, epochs=2, **LENET)
    with http.stream("GET", "/api/v1/events", params={"run": run_id}) as stream:
        next(data for data in events(stream) if "series" in data)
    took = time.perf_counter() - began
    wait_for_state(http, run_id, "finished")
    return took


def wait_for_state(http: httpx.Client, run_id: str, state: str) -> None:
    processes.wait_for(lambda: http.get(f"/api/v1/runs/{run_id}").json()["state"] == state, state, 60)


def wait_until_warm(http: httpx.Client) -> None:
    """An idle worker, its next trainers ready: what a person meets who did not just start another run."""
    idle_since = time.monotonic()
    processes.wait_for(
        lambda: time.monotonic() - idle_since > 12 and http.get("/api/v1/queue").json()["free_slots"] >= 1,
        "warmth",
        60,
    )


def events(stream: httpx.Response) -> Any:
    for line in stream.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def step_to_event(http: httpx.Client, dataset: str, seconds: float) -> list[float]:
    """Delay of every point, from the moment its step was done, while LeNet and AlexNet train on the same cores."""
    size = None if dataset == "digits" else 20_000
    runs = [
        submit(http, dataset=dataset, train_size=size, val_size=100, epochs=200, **LENET),
        submit(http, dataset=dataset, train_size=size, val_size=100, epochs=200, model="alexnet", lr=0.001),
    ]
    delays: list[float] = []
    until = time.monotonic() + seconds
    with http.stream("GET", "/api/v1/events", params={"run": runs}) as stream:
        for data in events(stream):
            at = time.time()
            for series in data.get("series", []):
                if series["metric"] == "train/loss":
                    delays += [at - done for done in series["time"]]
            if time.monotonic() > until:
                break
    for run_id in runs:
        http.post(f"/api/v1/runs/{run_id}/cancel")
        wait_for_state(http, run_id, "canceled")
    return delays


def in_browser(url: str, http: httpx.Client, dataset: str) -> list[float]:
    """Press the form's button; until the run's page has drawn a loss."""
    from tests.browser import CURVE, chromium

    seconds = []
    with chromium() as browser:
        page = browser.new_page()
        for _ in range(SUBMISSIONS):
            wait_until_warm(http)
            page.goto(f"{url}/new?model=lenet&dataset={dataset}&train_size=1000&val_size=200&epochs=2")
            began = time.perf_counter()
            page.get_by_role("button", name="Start training").click()
            page.locator(CURVE).first.wait_for(state="attached")
            seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
