"""The web process as a process: what it loads, how it starts and stops, and what it does without its neighbours."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import processes
from tests.processes import (
    Web,
    free_port,
    migrate,
    redis_server,
    run_command,
    trainyard_env,
    wait_for,
)

Json = dict[str, Any]
SMALL = {"spec": {"dataset": "digits", "train_size": 64, "val_size": 32, "epochs": 1}}
HEAVY = (
    "torch",
    "scipy",
    "torchvision",
    "sklearn",
    "ml.data",
    "ml.train",
    "ml.models",
    "worker",
    "plotly",
    "pandas",
)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Settings with a migrated database, and a broker that is not there."""
    env = trainyard_env(tmp_path, broker_url=f"redis+socket://{tmp_path}/none.sock")
    migrate(env)
    return env


def client(web: Web) -> httpx.Client:
    return httpx.Client(base_url=web.url, trust_env=False, timeout=40)


@pytest.fixture
def web(env: dict[str, str], tmp_path: Path) -> Iterator[Web]:
    """A web process that is alive, though not ready."""
    with started(env, tmp_path) as web:
        yield web


@contextmanager
def started(env: dict[str, str], directory: Path) -> Iterator[Web]:
    """A web process that is alive, though perhaps not ready."""
    port = free_port()
    command = [sys.executable, "-m", "app"]
    settings = {**env, "TRAINYARD_PORT": str(port)}
    with processes.running("web", command, directory=directory, env=settings) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: processes.answers(f"{url}/healthz"), "the web process", 60, process=process)
        yield Web(url, process)


# -- what it is ----------------------------------------------------------------------------------------------


def test_the_web_process_never_loads_torch_and_its_like(tmp_path: Path) -> None:
    code = (
        "import sys; from app.main import create_app; create_app();"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    ended = run_command([sys.executable, "-c", code], env=trainyard_env(tmp_path))
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr


def test_it_runs_on_uvloop_and_httptools_in_a_folder_of_its_owner(web: Web, tmp_path: Path) -> None:
    maps = Path(f"/proc/{web.process.pid}/maps").read_text()
    assert "uvloop" in maps
    assert "httptools" in maps
    assert tmp_path.stat().st_mode & 0o777 == 0o700


# -- starting and stopping -----------------------------------------------------------------------------------


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = run_command([sys.executable, "-m", "app"], env=trainyard_env(tmp_path, PORT=str(port)))
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_it_stops_with_open_streams(web: Web) -> None:
    with client(web) as http:
        run_id = http.post("/api/v1/runs", json={"external": True}).json()["id"]
        opened = threading.Barrier(21)

        def listen(query: Json) -> None:
            with client(web) as mine, mine.stream("GET", "/api/v1/events", params=query) as response:
                chunks = response.iter_raw()
                next(chunks)
                opened.wait(60)
                for _ in chunks:
                    pass

        with ThreadPoolExecutor(20) as pool:
            streams = [pool.submit(listen, {"run": run_id} if n % 2 else {}) for n in range(20)]
            opened.wait(60)
            assert web.process.stop(signal.SIGTERM, within_s=15) == 0
            for stream in streams:
                stream.result(30)  # each ended whole, not cut off
    assert "Traceback" not in web.process.output()


# -- without its neighbours ----------------------------------------------------------------------------------


def ready(http: httpx.Client) -> tuple[int, Json]:
    response = http.get("/readyz")
    return response.status_code, response.json()["checks"]


def ended(http: httpx.Client, run_id: str) -> bool:
    return bool(http.get(f"/api/v1/runs/{run_id}").json()["state"] == "finished")


@pytest.mark.slow
def test_without_redis_runs_are_taken_and_trained_once_it_is_there(tmp_path: Path) -> None:
    port = free_port()
    env = trainyard_env(tmp_path, broker_url=f"redis://127.0.0.1:{port}/0")
    migrate(env)
    with started(env, tmp_path) as web, client(web) as http:
        status, checks = ready(http)
        assert status == 503
        assert checks["database"] == "ok"
        assert "check that Redis runs" in checks["broker"]
        answer = http.post("/api/v1/runs", json=SMALL)
        assert (answer.status_code, answer.json()["state"]) == (201, "queued")
        run_id = answer.json()["id"]
        with redis_server(tmp_path, port=port), processes.worker_process(env, directory=tmp_path):
            wait_for(lambda: ready(http)[0] == 200, "readiness", 30)
            wait_for(lambda: ended(http, run_id), "the run", 90)


@pytest.mark.slow
def test_a_database_without_tables_is_503_with_the_remedy(tmp_path: Path) -> None:
    env = trainyard_env(tmp_path, broker_url=f"redis+socket://{tmp_path}/none.sock")
    with started(env, tmp_path) as web, client(web) as http:
        for method, path in (
            ("GET", "/api/v1/runs"),
            ("POST", "/api/v1/runs"),
            ("GET", "/readyz"),
            ("GET", "/"),
        ):
            response = http.request(method, path, json=SMALL if method == "POST" else None)
            assert response.status_code == 503
            assert "trainyard migrate" in response.text
        migrate(env)
        assert http.post("/api/v1/runs", json=SMALL).status_code == 201


def rows(database: Path) -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        return [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("run", "run_event", "metric_chunk", "metric_summary", "metric_batch")
        ]


@pytest.mark.slow
def test_a_locked_database_is_503_and_nothing_is_half_written(web: Web, tmp_path: Path) -> None:
    database = tmp_path / "trainyard.db"
    with client(web) as http, closing(sqlite3.connect(database, isolation_level=None)) as other:
        run_id = http.post("/api/v1/runs", json={"external": True}).json()["id"]
        points = {"batch": "b", "step": [1, 2], "values": {"m": [1.0, 2.0]}}
        before = rows(database)
        other.execute("BEGIN IMMEDIATE")
        requests: list[tuple[str, str, Json | None]] = [
            ("POST", "/api/v1/runs", {"external": True}), ("POST", f"/api/v1/runs/{run_id}/metrics", points),
            ("POST", f"/api/v1/runs/{run_id}/finish", {}), ("PATCH", f"/api/v1/runs/{run_id}", {"name": "x"}),
            ("POST", "/api/v1/experiments", {"name": "e", "vary": {"seed": [1, 2]}}),
            ("DELETE", f"/api/v1/runs/{run_id}", None),
        ]  # fmt: skip

        def ask(request: tuple[str, str, Json | None]) -> httpx.Response:
            method, path, body = request
            with client(web) as mine:
                return mine.request(method, path, json=body)

        with ThreadPoolExecutor(40) as pool:
            answers = [pool.submit(ask, requests[n % len(requests)]) for n in range(40)]
            # Meanwhile others are answered: the process is alive, though every thread and connection waits.
            assert http.get("/healthz").json() == {"status": "ok"}
            for answer in answers:
                response = answer.result(60)
                assert response.status_code == 503, response.text
                assert response.headers["retry-after"] == "2"
                assert response.json()["error"]["code"] == "unavailable"
        assert rows(database) == before
        assert http.get(f"/api/v1/runs/{run_id}").json()["state"] == "running"  # reading is not held up
        other.execute("ROLLBACK")

        assert http.post(f"/api/v1/runs/{run_id}/metrics", json=points).json()["written"] == 2
        assert (
            http.post("/api/v1/experiments", json={"name": "e", "vary": {"seed": [1, 2]}}).status_code == 201
        )
    assert json.dumps(rows(database)) != json.dumps(before)


@pytest.mark.slow
def test_a_request_that_waits_when_the_process_stops_is_told_to_try_again(web: Web, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "trainyard.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with client(web) as http, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(http.post, "/api/v1/runs", json={"external": True})
            threading.Event().wait(1)  # until it waits for the lock
            web.process.popen.send_signal(signal.SIGTERM)
            response = waiting.result(30)
        other.execute("ROLLBACK")
    assert response.status_code == 503, response.text
    assert response.headers["retry-after"] == "2"
    assert "about to stop" in response.json()["error"]["message"]
    assert web.process.popen.wait(30) == 0
