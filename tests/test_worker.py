"""A real worker with real trainers: what it trains, pauses, drains and refuses. What breaks them is in tests/faults."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from ml.data import load_dataset
from ml.events import Evaluated, Points
from ml.spec import RunSpec
from ml.train import train
from tests import processes
from tests.processes import Process, Stack, wait_for
from worker.slots import count_cores, divide_threads

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "dataset": "digits",
    "train_size": 512,
    "val_size": 100,
    "epochs": 2,
    "lr": 0.05,
    "momentum": 0.9,
    "model_options": {"activation": "relu"},
}
LONG = {**QUICK, "epochs": 2_000}

Json = dict[str, Any]


@dataclass
class Yard:
    """A web process and workers of one test, and shorthands for what it asks of them."""

    http: httpx.Client
    env: dict[str, str]
    directory: Path
    redis_url: str
    cleanup: ExitStack
    workers: list[Process] = field(default_factory=list)

    def add_worker(self, slots: int = 1) -> Process:
        worker = self.cleanup.enter_context(
            processes.worker_process(self.env, slots, directory=self.directory)
        )
        self.workers.append(worker)
        return worker

    def submit(self, **spec: Any) -> str:
        answer = self.http.post("/api/v1/runs", json={"spec": spec}).raise_for_status()
        run_id: str = answer.json()["id"]
        return run_id

    def get(self, run_id: str) -> Json:
        answer: Json = self.http.get(f"/api/v1/runs/{run_id}").json()
        return answer

    def ask(self, run_id: str, action: str) -> None:
        self.http.post(f"/api/v1/runs/{run_id}/{action}").raise_for_status()

    def wait(self, run_id: str, condition: Callable[[Json], bool], within_s: float = 180) -> Json:
        def look() -> Json | None:
            run = self.get(run_id)
            return run if condition(run) else None

        return wait_for(look, f"run {run_id}", within_s)

    def wait_state(self, run_id: str, *states: str) -> Json:
        return self.wait(run_id, lambda run: run["state"] in states)

    def wait_steps(self, run_id: str, steps: int = 1) -> Json:
        return self.wait(run_id, lambda run: run["state"] == "running" and run["step"] >= steps)

    def series(self, run_id: str, metric: str = "train/loss") -> tuple[list[int], list[float]]:
        answer = self.http.get("/api/v1/series", params={"run": run_id, "metric": metric, "points": 10_000})
        (series,) = answer.json()["series"]
        assert series["total"] == series["returned"]
        return series["step"], series["value"]


@contextmanager
def a_yard(directory: Path, **settings: str) -> Iterator[Yard]:
    with ExitStack() as cleanup:
        broker = cleanup.enter_context(processes.redis_server(directory))
        env = processes.trainyard_env(directory, broker_url=broker.broker_url, **settings)
        processes.migrate(env)
        web = cleanup.enter_context(processes.web_process(env, directory=directory))
        http = cleanup.enter_context(httpx.Client(base_url=web.url, trust_env=False, timeout=30))
        yield Yard(http, env, directory, broker.url, cleanup)


@pytest.fixture(scope="module")
def empty_yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    with a_yard(tmp_path_factory.mktemp("yard"), LEASE_S="3") as made:
        yield made


@pytest.fixture
def yard(empty_yard: Yard) -> Iterator[Yard]:
    """A web process without workers; those that the test adds are stopped at its end."""
    with ExitStack() as cleanup:
        yield replace(empty_yard, env=dict(empty_yard.env), cleanup=cleanup, workers=[])


@pytest.fixture
def shared(stack: Stack) -> Iterator[Yard]:
    """The session's stack with its worker of two slots, for tests that leave it as it was."""
    with stack.http as http, ExitStack() as cleanup:
        yield Yard(http, stack.env, stack.directory, "", cleanup, [stack.worker])


def plain_training(with_threads: int, **spec: Any) -> tuple[list[float], list[float]]:
    """Losses and validation accuracies of the same spec, trained here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(with_threads)
    losses, accuracies = [], []
    data = load_dataset(spec["dataset"], Path("unused"))
    for event in train(RunSpec(**spec), data, device=torch.device("cpu")):
        if isinstance(event, Points):
            losses += event.values["train/loss"]
        elif isinstance(event, Evaluated):
            accuracies.append(event.accuracy)
    torch.set_num_threads(threads)
    return losses, accuracies


def assert_plain(yard: Yard, run_id: str, spec: Json, slots: int) -> Json:
    """The run trained with its slot's share of the cores, and has the very losses of the plain loop with as many."""
    run = yard.wait_state(run_id, "finished", "failed")
    assert run["state"] == "finished", run
    threads = divide_threads(count_cores(), slots)
    assert run["resolved"]["threads"] == threads
    losses, accuracies = plain_training(threads, **spec)
    assert yard.series(run_id) == (list(range(1, 17)), losses)
    assert yard.series(run_id, "val/accuracy") == ([8, 16], accuracies)
    return run


def test_a_slot_alone_trains_with_all_cores_and_the_bits_of_as_many_threads(yard: Yard) -> None:
    yard.add_worker(slots=1)
    spec = {**QUICK, "device": "cpu"}
    assert_plain(yard, yard.submit(**spec), spec, slots=1)


def test_a_run_has_every_step_once_and_the_very_losses_of_the_plain_loop(shared: Yard) -> None:
    spec = {**QUICK, "device": "cpu"}
    run_id = shared.submit(**spec)
    run = assert_plain(shared, run_id, spec, slots=2)
    steps, _ = shared.series(run_id, "train/lr")
    assert steps == list(range(1, 17))
    assert run["progress"] == 1.0
    assert run["resolved"]["data_digest"]
    assert [event["to"] for event in run["events"]] == ["queued", "running", "finished"]
    files = shared.directory / "runs" / run_id
    assert list(files.glob("checkpoint-*.pt"))
    shared.http.delete(f"/api/v1/runs/{run_id}").raise_for_status()
    assert not files.exists()


def test_a_run_paused_and_resumed_is_that_of_an_undisturbed_run(shared: Yard) -> None:
    spec = {**QUICK, "epochs": 60, "seed": 3}
    run_id = shared.submit(**spec)
    shared.wait_steps(run_id, 10)
    shared.ask(run_id, "pause")
    paused = shared.wait_state(run_id, "paused", "finished")
    assert paused["state"] == "paused", "the run was over before it could be paused"
    shared.ask(run_id, "resume")
    run = shared.wait_state(run_id, "finished", "failed")
    assert (run["state"], run["attempt"]) == ("finished", 2), run
    undisturbed = shared.submit(**spec)
    shared.wait_state(undisturbed, "finished")
    assert shared.series(run_id) == shared.series(undisturbed)


def drain(yard: Yard, **body: Any) -> Json:
    (worker,) = yard.http.get("/api/v1/workers").raise_for_status().json()["workers"]
    answer = yard.http.post(f"/api/v1/workers/{worker['name']}/drain", json=body).raise_for_status()
    drained: Json = answer.json()
    return drained


def test_a_drained_worker_ends_its_run_and_takes_no_other(yard: Yard) -> None:
    worker = yard.add_worker(slots=1)
    run_id = yard.submit(**LONG)
    yard.wait_steps(run_id, 5)
    assert drain(yard)["state"] == "draining"
    waiting = yard.submit(**QUICK)
    yard.wait_steps(run_id, yard.get(run_id)["step"] + 50)  # it goes on
    page = yard.http.get("/workers").text
    assert "Takes no more runs, and ends when those it has are over (asked by user)" in page
    yard.ask(run_id, "cancel")
    assert worker.popen.wait(60) == 0
    assert yard.get(run_id)["state"] == "canceled"
    assert (yard.get(waiting)["state"], yard.get(waiting)["attempt"]) == ("queued", 0)
    assert yard.http.get("/api/v1/workers").json() == {"workers": []}
    yard.ask(waiting, "cancel")


def test_a_worker_drained_at_once_gives_its_run_back_uncharged(yard: Yard) -> None:
    worker = yard.add_worker(slots=1)
    run_id = yard.submit(**LONG)
    yard.wait_steps(run_id, 5)
    drain(yard)
    name = drain(yard, now=True)["name"]  # hurried
    assert worker.popen.wait(60) == 0
    run = yard.get(run_id)
    reason = f"worker {name} was drained, as user asked; resumes from step {run['step']:,}"
    assert (run["state"], run["events"][-1]["reason"]) == ("queued", reason)
    yard.ask(run_id, "cancel")


def test_a_drained_worker_still_obeys_sigterm(yard: Yard) -> None:
    worker = yard.add_worker(slots=1)
    run_id = yard.submit(**LONG)
    yard.wait_steps(run_id, 5)
    drain(yard)
    wait_for(lambda: "no more runs are taken" in worker.output(), "the drain", 30, process=worker)
    assert worker.stop(signal.SIGTERM, 40) == 0
    assert "shuts down" in yard.get(run_id)["events"][-1]["reason"]
    yard.ask(run_id, "cancel")


def test_a_waiting_run_is_canceled_at_once_and_a_training_one_soon(shared: Yard) -> None:
    running = shared.submit(**LONG)
    shared.wait_steps(running)
    shared.ask(running, "cancel")
    run = shared.wait_state(running, "canceled")
    steps, _ = shared.series(running)
    assert steps == list(range(1, run["step"] + 1))


def test_a_loss_that_is_no_number_ends_the_run_and_shows(shared: Yard) -> None:
    run_id = shared.submit(**{**QUICK, "lr": 10.0, "momentum": 0.99, "input_scaling": "raw"})
    run = shared.wait_state(run_id, "failed", "finished")
    assert run["state"] == "failed"
    assert "step" in run["error"]
    _, values = shared.series(run_id)
    assert values[-1] in ("NaN", "Infinity")  # type: ignore[comparison-overlap]


def test_a_data_set_that_is_not_there_says_what_to_do(yard: Yard) -> None:
    yard.cleanup.callback(lambda: None)
    yard.env["TRAINYARD_DATASETS"] = str(yard.directory / "empty")
    yard.env["http_proxy"] = yard.env["https_proxy"] = "http://127.0.0.1:9"  # no download in this test
    yard.add_worker(slots=1)
    run_id = yard.submit(dataset="fashion-mnist", epochs=1)
    run = yard.wait_state(run_id, "failed")
    assert "digits" in run["error"]
    assert run["error_tail"]


FAKE_GPU = """#!/bin/sh
echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000000)'
"""


def test_a_run_that_needs_a_gpu_waits_until_a_worker_says_that_it_has_one(yard: Yard, tmp_path: Path) -> None:
    """The second worker's GPU is a script's word: it claims the run, and its trainer then finds none."""
    yard.add_worker(slots=1)
    run_id = yard.submit(**QUICK, device="cuda")
    note = "waits for a GPU; no worker has one"
    assert yard.get(run_id)["phase"] == note
    passes = yard.submit(**QUICK)
    yard.wait_state(passes, "finished")
    run = yard.get(run_id)
    assert (run["state"], run["attempt"], run["phase"]) == ("queued", 0, note)
    [waiting] = yard.http.get("/api/v1/queue").json()["waiting"]
    assert (waiting["id"], waiting["phase"]) == (run_id, note)
    for page in ("/workers", f"/runs/{run_id}"):
        assert note in yard.http.get(page).text
    assert "等待 GPU" in yard.http.get("/workers", headers={"Accept-Language": "zh"}).text

    script = tmp_path / "nvidia-smi"
    script.write_text(FAKE_GPU)
    script.chmod(0o755)
    yard.env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    yard.add_worker(slots=1)
    run = yard.wait_state(run_id, "failed")
    assert "this worker sees no GPU" in run["error"]
    claimed = next(event for event in run["events"] if event["to"] == "running")
    present = {worker["name"]: worker for worker in yard.http.get("/api/v1/workers").json()["workers"]}
    assert present[claimed["actor"]]["gpus"] == 1
