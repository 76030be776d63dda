"""docker-compose.yml, run without Docker: each service's own command and health check, natively.

Only hosts, ports and folders are replaced. Postgres and Redis are real, on TCP, with the passwords of the file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from tests.processes import (
    ROOT,
    Postgres,
    Process,
    clean_environment,
    free_port,
    postgres_binaries,
    postgres_server,
    redis_binary,
    run_command,
    running,
    wait_for,
)
from trainyard import Client

SECRETS = {
    "POSTGRES_PASSWORD": "postgres0secret1",
    "REDIS_PASSWORD": "redis0secret1",
    "TRAINYARD_TOKEN": "token0secret1token0secret1token0secret1",
}
OURS = ("web", "worker", "worker-cpu", "migrate")
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<rule>[-?])(?P<text>[^}]*))?\}")


def read_compose(values: Mapping[str, str]) -> dict[str, Any]:
    """The services, with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` filled in as Compose does."""

    def fill(match: re.Match[str]) -> str:
        value = values.get(match["name"], "")
        if not value and match["rule"] == "?":
            raise ValueError(match["text"])
        return value or (match["text"] if match["rule"] == "-" else "")

    text = (ROOT / "docker-compose.yml").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    services: dict[str, Any] = yaml.safe_load(VARIABLE.sub(fill, "\n".join(lines)))["services"]
    return services


def native(command: list[str]) -> list[str]:
    """The command of an image of ours with this Python in place of the image's."""
    programs = {"trainyard": [sys.executable, "-m", "trainyard"], "python": [sys.executable]}
    return [*programs[command[0]], *command[1:]]


class Machine:
    """What Compose would give the services: addresses, a data volume, and the health checks run in their place."""

    def __init__(self, directory: Path, postgres: Postgres) -> None:
        self.directory = directory
        self.services = read_compose(SECRETS)
        self.postgres = postgres
        self.redis_port = free_port()
        self.web_port = free_port()

    def environment(self, service: str) -> dict[str, str]:
        replaced = {
            "@postgres:5432": f"@127.0.0.1:{self.postgres.port}",
            "@redis:6379": f"@127.0.0.1:{self.redis_port}",
            "/data": str(self.directory / "data"),
        }
        environment: dict[str, str] = {}
        for name, value in self.services[service]["environment"].items():
            environment[name] = str(value)
            for old, new in replaced.items():
                environment[name] = environment[name].replace(old, new)
        if "TRAINYARD_PORT" in environment:
            environment["TRAINYARD_PORT"] = str(self.web_port)
        return environment

    @contextmanager
    def service(self, name: str, command: list[str] | None = None, stop_s: float = 40) -> Iterator[Process]:
        command = command or native(self.services[name]["command"])
        env = self.environment(name)
        with running(name, command, directory=self.directory, env=env, stop_s=stop_s) as process:
            yield process

    def healthy(self, name: str) -> bool:
        kind, *test = self.services[name]["healthcheck"]["test"]
        env = self.environment(name)
        if name == "postgres":
            env |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.postgres.port)}
        if kind == "CMD":
            return run_command(native(test), env=env).returncode == 0
        shell = test[0].replace("redis-cli", f"redis-cli -p {self.redis_port}")
        path = f"{postgres_binaries()}:{redis_binary().parent}:{os.environ['PATH']}"
        command = ["sh", "-c", shell]
        return (
            subprocess.run(command, env=clean_environment(env | {"PATH": path}), check=False).returncode == 0
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("compose")
    with postgres_server(directory) as postgres:
        machine = Machine(directory, postgres)
        given = machine.services["postgres"]["environment"]
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            user, database = sql.Identifier(given["POSTGRES_USER"]), sql.Identifier(given["POSTGRES_DB"])
            password = sql.Literal(given["POSTGRES_PASSWORD"])
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(user, password))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, user))
        _, *options = machine.services["redis"]["command"]
        command = [str(redis_binary()), *options, "--port", str(machine.redis_port), "--bind", "127.0.0.1"]
        with machine.service("redis", command):
            yield machine


@pytest.mark.slow
def test_the_services_train_a_run(machine: Machine) -> None:
    wait_for(lambda: machine.healthy("postgres"), "a healthy postgres")
    wait_for(lambda: machine.healthy("redis"), "a healthy redis")
    with machine.service("migrate") as migrate:
        assert migrate.popen.wait(60) == 0, migrate.output()
    assert not machine.healthy("web")

    with machine.service("web") as web, machine.service("worker") as worker:
        wait_for(lambda: machine.healthy("web"), "a healthy web", process=web)
        with Client(f"http://127.0.0.1:{machine.web_port}", SECRETS["TRAINYARD_TOKEN"]) as client:
            run = client.submit(model="lenet", dataset="digits", train_size=128, val_size=64, epochs=2)
            ended = client.wait(run.id, timeout=120)
            losses = client.series(run.id, "train/loss")
        worker.check()

    assert ended.state == "finished", ended.error
    assert losses[0].step == [1, 2, 3, 4]
    for process in (web, worker):
        assert not any(secret in process.output() for secret in SECRETS.values())


def test_the_redis_of_the_file_wants_its_password(machine: Machine) -> None:
    wait_for(lambda: machine.healthy("redis"), "a healthy redis")
    ended = run_command([redis_binary().with_name("redis-cli"), "-p", str(machine.redis_port), "ping"])

    assert "NOAUTH" in ended.stdout


@pytest.mark.parametrize("missing", SECRETS)
def test_every_secret_is_required_and_says_where(missing: str) -> None:
    with pytest.raises(ValueError, match=rf"set {missing} in \.env"):
        read_compose({name: value for name, value in SECRETS.items() if name != missing})


def test_the_example_names_every_variable_and_holds_no_secret() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    assert {match["name"] for match in VARIABLE.finditer(text)} == set(example)
    assert all(example[name] == "" for name in SECRETS)


def test_only_this_machine_can_connect() -> None:
    services = read_compose(SECRETS)
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert published == {"web": ["127.0.0.1:8000:8000"]}


def test_the_worker_gets_the_gpus_and_time_to_write_checkpoints() -> None:
    services = read_compose(SECRETS)
    [device] = services["worker"]["deploy"]["resources"]["reservations"]["devices"]

    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in services["worker-cpu"]
    assert services["worker-cpu"]["profiles"] == ["cpu"]
    assert services["worker"]["stop_grace_period"] == "45s"
    assert services["worker"]["shm_size"] == "1gb"


def test_our_services_start_after_what_they_need() -> None:
    services = read_compose(SECRETS)

    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in set(OURS) - {"migrate"}:
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert all(services[name]["command"][0] == "trainyard" for name in OURS)


def test_the_image_holds_what_it_copies_and_runs_as_nobody_special() -> None:
    text = (ROOT / "Dockerfile").read_text()
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}

    copied = [word for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert set(copied) <= allowed
    assert all((ROOT / name).exists() for name in copied)
    assert "USER trainyard" in text
    assert re.search(r"^HEALTHCHECK", text, re.MULTILINE)
