"""R1.4, R1.5: who may speak to Redis, and what can be said through it."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
import redis

from app.queue import celery, publisher, refuse_broker
from tests.processes import ROOT, free_port, run_command, running, trainyard_env, wait_for
from trainyard import broker


@pytest.mark.parametrize(
    "url",
    [
        "redis+socket:///data/redis.sock",
        "redis://127.0.0.1:6379/0",
        "redis://localhost:6379",
        "redis://[::1]:6379/0",
        "redis:///0",
        "redis://:secret@redis:6379/0",
        "redis://user:secret@10.0.0.5",
        "rediss://redis.example/0?ssl_certfile=/etc/client.pem",
    ],
)
def test_a_redis_with_a_password_or_on_this_machine_is_used(url: str) -> None:
    assert refuse_broker(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis:6379/0",
        "redis://10.0.0.5",
        "redis://user@10.0.0.5",
        "redis://:@10.0.0.5",
        "rediss://redis.example",
        "sentinel://a:26379",
        "redis://127.0.0.1;redis://b",
        "redis://127.0.0.1.evil.example",
        "redis://0.0.0.0:6379",
    ],
)
def test_a_redis_elsewhere_without_one_is_refused_with_the_remedy(url: str) -> None:
    refusal = refuse_broker(url)
    assert refusal is not None
    assert "requirepass" in refusal
    assert "TRAINYARD_BROKER_URL" in refusal


@pytest.mark.parametrize("module", ["app", "worker"])
def test_neither_the_web_process_nor_a_worker_starts_with_one(tmp_path: Path, module: str) -> None:
    env = trainyard_env(tmp_path, broker_url="redis://10.255.255.1:6379/0", PORT=str(free_port()))
    ended = run_command([sys.executable, "-m", module], env=env)
    assert ended.returncode == 1
    assert "refusing to use the Redis at 10.255.255.1 without a password" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_embedded_redis_listens_on_no_port_and_serves_this_user_alone(tmp_path: Path) -> None:
    program, _ = broker.find_redis()
    socket = tmp_path / "redis.sock"
    with running("redis", broker.command(program, socket, tmp_path), directory=tmp_path) as process:
        wait_for(socket.exists, "the socket", 15, process=process)
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        with redis.Redis(unix_socket_path=str(socket)) as client:
            assert client.config_get("port") == {"port": "0"}


def test_through_the_broker_comes_nothing_but_json_and_no_command() -> None:
    for application in (celery, publisher):
        conf = application.conf
        assert conf.task_serializer == conf.result_serializer == "json"
        assert list(conf.accept_content) == list(conf.result_accept_content) == ["json"]
        assert conf.task_ignore_result
        assert conf.result_backend is None
        assert not conf.worker_enable_remote_control
        assert not conf.worker_send_task_events


def test_the_web_process_commands_no_worker() -> None:
    """It writes rows and sends ids: nothing of Celery's remote control is reachable over HTTP."""
    for path in (ROOT / "app").rglob("*.py"):
        code = path.read_text()
        for word in (".control.", "broadcast(", "AsyncResult", "flower"):
            assert word not in code, f"{path.name} uses {word}"
