"""`trainyard up` as people start it: a real process with its real children."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.processes import Process, answers, free_port, run_command, running, wait_for
from trainyard import broker
from trainyard.children import MAX_QUICK_DEATHS, ROTATE_BYTES, Child, rotate
from trainyard.ports import PortTaken, claim_port, url_of

UP = [sys.executable, "-m", "trainyard", "up", "--slots", "1"]


@contextmanager
def up(data_dir: Path, logs: Path, *more: str) -> Iterator[tuple[str, Process]]:
    """A ready `trainyard up` on a free port: its URL and its process."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command: list[str | Path] = [*UP, "--port", str(port), "--data-dir", data_dir, "--datasets", logs, *more]
    with running("up", command, directory=logs, stop_s=60) as process:
        wait_for(lambda: f"running at {url}" in process.output(), "the banner", 60, process=process)
        yield url, process


def children_of(data_dir: Path) -> list[psutil.Process]:
    """Every process that was started for this data directory, the launcher itself included."""
    found = []
    for process in psutil.process_iter():
        try:
            named = str(data_dir) in " ".join(process.cmdline())
            if named or process.environ().get("TRAINYARD_DATA_DIR") == str(data_dir):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def child(data_dir: Path, *words: str) -> psutil.Process:
    """The process itself whose command holds these words, not its leash."""
    [found] = [
        process
        for process in children_of(data_dir)
        if all(word in " ".join(process.cmdline()) for word in words)
        and "leash.py" not in " ".join(process.cmdline())
    ]
    return found


def gone(data_dir: Path) -> bool:
    return not children_of(data_dir)


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_up_serves_and_a_signal_ends_everything(tmp_path: Path, sig: signal.Signals) -> None:
    data_dir = tmp_path / "data"
    with up(data_dir, tmp_path) as (url, process):
        assert answers(f"{url}/readyz")
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert {log.name for log in (data_dir / "logs").iterdir()} >= {"redis.log", "web.log", "worker.log"}
        assert len(children_of(data_dir)) >= 7  # launcher, three leashes, three commands

        assert process.stop(sig, 60) == 0

    assert gone(data_dir)
    assert "Stopped." in process.output()


@pytest.mark.slow
def test_nothing_is_left_when_the_launcher_is_killed_and_the_next_one_starts(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with up(data_dir, tmp_path) as (_, process):
        process.popen.kill()
        process.popen.wait()
        with up(data_dir, tmp_path) as (url, _):  # waits until what the first one left has ended
            assert answers(f"{url}/readyz")

    wait_for(lambda: gone(data_dir), "all processes to end", 45)


@pytest.mark.slow
def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with up(data_dir, tmp_path) as (url, process):
        web = child(data_dir, "-m app")
        web.kill()
        wait_for(lambda: "starting it again" in process.output(), "word of the restart", process=process)
        wait_for(lambda: answers(f"{url}/readyz"), "the new web process", process=process)
        assert child(data_dir, "-m app").pid != web.pid

        child(data_dir, "redis-server").kill()
        wait_for(lambda: process.output().count("starting it again") == 2, "the second", process=process)
        wait_for(lambda: answers(f"{url}/readyz"), "the new Redis", process=process)


@pytest.mark.slow
def test_a_drained_worker_is_not_started_again(tmp_path: Path) -> None:
    with (
        up(tmp_path / "data", tmp_path) as (url, process),
        httpx.Client(base_url=url, trust_env=False, timeout=30) as http,
    ):
        (worker,) = wait_for(
            lambda: http.get("/api/v1/workers").json()["workers"] or None, "the worker", 60, process=process
        )
        http.post(f"/api/v1/workers/{worker['name']}/drain").raise_for_status()
        wait_for(lambda: "as it was asked to" in process.output(), "its end", 60, process=process)
        assert "starting it again" not in process.output()
        assert answers(f"{url}/readyz")
        assert http.get("/api/v1/workers").json()["workers"] == []


@pytest.mark.slow
def test_a_second_up_on_the_same_data_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with up(data_dir, tmp_path) as (_, process):
        second = run_command([*UP, "--port", "0", "--data-dir", data_dir])

    assert second.returncode == 1
    assert f"process {process.pid}" in second.stderr
    assert "--data-dir" in second.stderr


@pytest.mark.slow
def test_a_long_data_directory_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    with up(data_dir, tmp_path) as (url, _):
        assert answers(f"{url}/readyz")
        assert not (data_dir / "redis.sock").exists()


@pytest.mark.slow
def test_the_demo_submits_three_runs_and_shows_them(tmp_path: Path) -> None:
    with up(tmp_path / "data", tmp_path, "--demo") as (url, process):
        wait_for(lambda: "loss " in process.output(), "the first loss", 120, process=process)
        runs = httpx.get(f"{url}/api/v1/runs", trust_env=False).json()["runs"]

    assert {run["model"] for run in runs} == {"lenet", "alexnet", "resnet8"}
    assert len({run["experiment"] for run in runs}) == 1
    assert f"{url}/compare?" in process.output()
    assert all(f"run={run['id']}" in process.output() for run in runs)


@pytest.mark.slow
def test_the_demo_comes_in_where_tokens_are_asked_for(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "trainyard",
        "token",
        "create",
        "me",
        "--scope",
        "read",
        "--data-dir",
        data_dir,
    ]
    made = run_command(command)
    assert made.returncode == 0, made.stderr
    with up(data_dir, tmp_path, "--demo") as (url, process):
        wait_for(lambda: "Compare  " in process.output(), "the demo's runs", 120, process=process)
        assert httpx.get(f"{url}/api/v1/runs", trust_env=False).status_code == 401
        headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
        runs = httpx.get(f"{url}/api/v1/runs", headers=headers, trust_env=False).json()["runs"]
    assert len(runs) == 3


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_command([*UP, "--port", str(port), "--data-dir", tmp_path / "data"])

    assert ended.returncode == 1
    assert f"port {port}" in ended.stderr
    assert "--port" in ended.stderr
    assert gone(tmp_path / "data")


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    ended = run_command([*UP, "--host", "0.0.0.0", "--port", "0", "--data-dir", tmp_path / "data"])

    assert ended.returncode == 1
    assert "TRAINYARD_TOKEN" in ended.stderr


def test_a_database_that_is_not_there_ends_it(tmp_path: Path) -> None:
    env = {"TRAINYARD_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none"}
    ended = run_command([*UP, "--port", "0", "--data-dir", tmp_path / "data"], env=env)

    assert ended.returncode == 1
    assert "database" in ended.stderr
    assert gone(tmp_path / "data")


def test_a_child_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    failing = Child(
        "failing", [sys.executable, "-c", "print('why'); exit(3)"], os.environ, tmp_path / "log", 1
    )
    waits: list[float | None] = []
    for _ in range(MAX_QUICK_DEATHS):
        failing.start()
        code, back_off_s = failing.bury()
        assert code == 3
        waits.append(back_off_s)

    assert waits == [0.5, 1, 2, 4, None]
    assert failing.last_lines() == ["why"] * MAX_QUICK_DEATHS


def test_the_leash_ends_the_command_and_its_group_when_the_starter_is_gone(tmp_path: Path) -> None:
    # The command ignores SIGTERM and has a child of its own.
    script = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); print('up', flush=True);"
        "signal.pause()"
    )
    env = {**os.environ, "TRAINYARD_DATA_DIR": str(tmp_path)}
    stubborn = Child("stubborn", [sys.executable, "-c", script], env, tmp_path / "log", 0.2)
    stubborn.start()
    wait_for(lambda: stubborn.last_lines() == ["up"], "the command")
    assert len(children_of(tmp_path)) == 3

    assert stubborn._popen is not None
    assert stubborn._popen.stdin is not None
    stubborn._popen.stdin.close()

    wait_for(lambda: not stubborn.running, "the leash to end")
    wait_for(lambda: gone(tmp_path), "the group to end")
    stubborn.kill()


def test_a_big_log_is_moved_aside(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_bytes(b"x" * (ROTATE_BYTES + 1))
    rotate(log)

    assert not log.exists()
    assert (tmp_path / "web.log.1").stat().st_size == ROTATE_BYTES + 1


def test_port_zero_takes_a_free_one_and_urls_can_be_opened() -> None:
    assert claim_port("127.0.0.1", 0) > 0
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 80) == "http://[::1]:80"
    with pytest.raises(PortTaken, match="no such address"):
        claim_port("no.such.host.invalid", 0)


def test_the_newest_redis_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\necho 'Redis server v=99.1.2 sha=0:0 malloc=libc bits=64'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert broker.find_redis() == (fake, "99.1.2")

    fake.write_text("#!/bin/sh\necho 'Redis server v=2.8.0 sha=0:0 malloc=libc bits=64'\n")
    assert broker.find_redis()[0] != fake
