"""Fixtures on real parts: SQLite and Postgres with real migrations, real Redis, web process and worker.

With TRAINYARD_REQUIRE_ALL=1, as in CI, a test that would skip fails instead.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.db import Database
from app.migrate import migrate
from app.settings import database_url
from tests import processes
from tests.processes import Postgres, Process, Web

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and every process of ours would inherit it: Ctrl-C could not be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("TRAINYARD_REQUIRE_ALL") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not be skipped here: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with processes.postgres_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_database(postgres: Postgres) -> str:
    """The name of a migrated Postgres database, to copy."""
    migrate(database_url(postgres.create_database("migrated")))
    return "migrated"


@pytest.fixture(params=["sqlite", "postgres"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh, migrated database; a test that takes it runs on both."""
    if request.param == "sqlite":
        path: Path = request.getfixturevalue("migrated_file")
        return f"sqlite:///{shutil.copy(path, tmp_path / 'test.db')}"
    postgres: Postgres = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("migrated_database")
    return database_url(postgres.create_database(template=template))


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    database = Database(db_url)
    yield database
    database.dispose()


@dataclass(frozen=True)
class Stack:
    """A whole Trainyard on SQLite: Redis, web process and a worker with two slots."""

    url: str
    env: dict[str, str]
    directory: Path
    web: Web
    worker: Process

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    with processes.redis_server(directory) as redis:
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        processes.migrate(env)
        with (
            processes.web_process(env, directory=directory) as web,
            processes.worker_process(env, 2, directory=directory) as worker,
        ):
            yield Stack(web.url, env, directory, web, worker)
