"""A yard with a run in every state, and the tour of all pages: what must hold on each of them is tested on all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page
from sqlmodel import Session, col, update

from app.db import Database
from app.models import CANCELED, Worker
from app.runs import NewRun, claim_run, create_run, end_run, report
from app.series import make_block
from app.settings import Settings
from app.workers import say_goodbye, say_present
from ml.spec import RunSpec
from tests import processes
from tests.processes import Stack

SMALL = {"dataset": "digits", "train_size": 200, "val_size": 100, "batch_size": 20}
RELU = {"model_options": {"activation": "relu"}}
WILD = {"lr": 10, "input_scaling": "raw", "epochs": 9, **RELU}  # its loss is NaN in the first epoch
FAR = "另一台"
ENDLESS = {"dataset": "digits", "epochs": 10_000, "batch_size": 1, "lr": 0.0001}


@dataclass(frozen=True)
class Stop:
    """One page of the tour, in one of its states."""

    name: str
    path: str


@dataclass(frozen=True)
class Yard:
    """Where the tour goes: `full` has a run in every state, `empty` has neither runs nor a worker."""

    full: str
    empty: str
    runs: dict[str, str]

    @property
    def stops(self) -> list[tuple[str, Stop]]:
        """(address of the server, stop) for every page in every state."""
        several = [self.runs[name] for name in ("finished", "second", "third", "failed", "external", "odd")]
        pair = "&".join(f"run={run}" for run in several[:2])
        many = "&".join(f"run={run}" for run in (*several, *self.runs["more"].split()))
        full = [
            ("runs", "/"),
            ("runs-nothing-fits", "/?text=zzzz"),
            ("runs-wrong-query", "/?q=lr+%3E+快&sort=无&cols=无"),
            ("edit", f"/runs/{several[0]}/edit"),
            ("bulk-delete", f"/bulk?{pair}&action=delete"),
            ("bulk-tag", f"/bulk?{pair}&action=tag"),
            ("new", "/new"),
            ("new-wrong", "/new?lr=99&epochs=many&model_options.activation=step&nonsense=1"),
            *((f"run-{name}", f"/runs/{run}") for name, run in self.runs.items() if name != "more"),
            ("compare-none", "/compare"),
            ("compare-two", f"/compare?{pair}"),
            ("compare-many", f"/compare?{many}"),
            ("compare-missing", f"/compare?run=gone&run={several[0]}"),
            ("wrong-one", f"/wrong?run={several[0]}"),
            ("wrong-two", f"/wrong?{pair}&wrong_share=1"),
            ("wrong-many", f"/wrong?{many}&wrong_show=any_wrong"),
            ("wrong-nothing", f"/wrong?run={self.runs['external']}"),
            ("workers", "/workers"),
            ("model", "/models/resnet8"),
            ("docs", "/docs"),
            ("login", "/login"),
            ("tokens", "/tokens"),
            ("nowhere", "/nowhere"),
            ("run-gone", "/runs/gone"),
        ]
        bare = [("runs-empty", "/"), ("compare-empty", "/compare"), ("workers-empty", "/workers")]
        return [(self.full, Stop(*stop)) for stop in full] + [(self.empty, Stop(*stop)) for stop in bare]


@contextmanager
def yard(stack: Stack, directory: Path) -> Iterator[Yard]:
    """Runs of every state on the whole stack, and a second, empty server."""
    with stack.http as http:
        runs = _submit(http)
        database = Database(Settings(data_dir=stack.directory).database_url)
        try:
            with database.begin() as s:
                runs |= _hold(s)
            with empty_server(directory) as empty:
                yield Yard(stack.url, empty, runs)
        finally:
            with database.begin() as s:
                for name in ("running", "busy"):
                    end_run(s, runs[name], 1, CANCELED, FAR, "the tour is over")
                say_goodbye(s, FAR)
            database.dispose()
            for name in ("queued", "paused"):
                http.post(f"/api/v1/runs/{runs[name]}/cancel").raise_for_status()


def _hold(s: Session) -> dict[str, str]:
    """Two runs that a worker on another host trains for as long as the tour lasts, and one that waits.

    No process is behind them: trainers would take the processors that pages and axe-core need.
    """
    held = {}
    for name, title, model in (
        ("running", "辛", "lenet"),
        ("busy", "壬", "alexnet"),
        ("queued", "癸", "lenet"),
    ):
        spec = RunSpec.model_validate({"model": model, **ENDLESS})
        run, _new = create_run(s, NewRun(spec=spec, name=title, experiment="实验 1"), max_queued=100)
        held[name] = run.id
        if name == "queued":
            run.not_before = run.created_at + 3600
            continue
        assert claim_run(s, run.id, FAR, lease_s=3600)
        points = {"train/loss": make_block([1, 2, 3], [run.created_at] * 3, [2.3, 2.2, 2.1])}
        report(s, run.id, 1, 1, points, lease_s=3600, step=3, epoch=0, phase="training", step_rate=2.0)
    say_present(s, FAR, 2, ["CPU"], [held["running"], held["busy"]])
    s.execute(update(Worker).where(col(Worker.name) == FAR).values(seen_at=Worker.seen_at + 3600))
    return held


def _submit(http: httpx.Client) -> dict[str, str]:
    def start(name: str, **spec: Any) -> str:
        body = {"name": name, "experiment": "实验 1", "tags": ["标签"], "spec": spec}
        answer = http.post("/api/v1/runs", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    runs = {
        "finished": start("甲", model="lenet", epochs=3, **SMALL),
        "second": start("乙", model="resnet8", epochs=3, **SMALL),
        "third": start("丙", model="lenet", epochs=3, seed=1, **SMALL),
        "failed": start("丁", model="lenet", **WILD, **SMALL),
    }
    for name in ("finished", "second", "third"):
        _wait(http, runs[name], "finished")
    _wait(http, runs["failed"], "failed")
    runs["external"] = _external(
        http, "戊", {"train/loss": [1.0, 0.5, "NaN", 0.25], "my/figure": [1, 2, 3, 4]}
    )
    runs["odd"] = _external(http, "己", {"my/nothing": ["NaN", "NaN", "Infinity", "NaN"]})
    runs["more"] = " ".join(
        _external(http, f"第 {i}", {"train/loss": [1.0, 0.5, 0.4, 0.3]}) for i in range(4)
    )
    runs["paused"] = start("庚", model="lenet", **ENDLESS)
    _wait(http, runs["paused"], "running")
    http.post(f"/api/v1/runs/{runs['paused']}/pause").raise_for_status()
    _wait(http, runs["paused"], "paused")
    return runs


def _external(http: httpx.Client, name: str, values: dict[str, list[Any]]) -> str:
    body = {"external": True, "name": name, "params": {"学习率": 0.1}}
    run = str(http.post("/api/v1/runs", json=body).json()["id"])
    http.post(f"/api/v1/runs/{run}/metrics", json={"step": [1, 2, 3, 4], "values": values}).raise_for_status()
    http.post(f"/api/v1/runs/{run}/finish", json={"state": "finished"}).raise_for_status()
    return run


def _wait(http: httpx.Client, run: str, state: str) -> None:
    def arrived() -> bool:
        now = http.get(f"/api/v1/runs/{run}").json()["state"]
        assert now == state or now in ("queued", "running", "paused"), f"{run} is {now}, not {state}"
        return bool(now == state)

    processes.wait_for(arrived, f"run {run} to be {state}", 120)


@contextmanager
def empty_server(directory: Path) -> Iterator[str]:
    """A web process with an empty database and no worker."""
    with processes.redis_server(directory) as redis:
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        processes.migrate(env)
        with processes.web_process(env, directory=directory) as web:
            yield web.url


def settle(page: Page, timeout_s: float = 20) -> None:
    """Until nothing is being read or drawn: the page is as it will stay, live figures apart."""
    deadline = time.monotonic() + timeout_s
    before = ""
    while time.monotonic() < deadline:
        now = str(page.evaluate(_SETTLED))
        if now == before and not now.startswith("busy"):
            return
        before = now
        page.wait_for_timeout(300)


_SETTLED = """() => {
  const swagger = document.querySelector("#swagger");
  const waiting = [...document.querySelectorAll("[aria-busy='true']")].filter(part => {
    const box = part.getBoundingClientRect();
    return box.height > 0 && box.top < innerHeight && box.bottom > 0; // what is further down is read when it is near
  });
  const busy = document.readyState !== "complete" || waiting.length
    || (swagger && !swagger.querySelector(".opblock"));
  return `${busy ? "busy" : "calm"} ${document.querySelectorAll("*").length}`;
}"""
