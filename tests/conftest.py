"""Fixtures on real parts: SQLite and Postgres with real migrations, real Redis, web process and worker.

With TRAINYARD_REQUIRE_ALL=1, as in CI, a test that would skip fails instead.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from app.db import Database
from app.migrate import migrate
from app.settings import database_url
from tests import processes, tour
from tests.browser import NoChromium, chromium
from tests.faults import figures
from tests.processes import Postgres, Stack
from tests.tour import Yard

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and every process of ours would inherit it: Ctrl-C could not be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_terminal_summary = (
    figures.print_table
)  # here, as pytest-xdist's reporting process loads no other conftest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("TRAINYARD_REQUIRE_ALL") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not be skipped here: {report.longrepr}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first, then those with many: pytest-xdist hands out whole files, and the last should
    be short."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path], item.path))


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


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with processes.whole_stack(tmp_path_factory.mktemp("stack")) as started:
        yield started


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """What the tours of all pages go through; of its own, so that no other test's run is on a page."""
    with (
        processes.whole_stack(tmp_path_factory.mktemp("tour")) as started,
        tour.yard(started, tmp_path_factory.mktemp("empty")) as yard,
    ):
        yield yard


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=30_000)  # the processors may be busy with trainers and a second browser
    try:
        with chromium() as started:
            yield started
    except NoChromium as missing:
        pytest.skip(str(missing))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch with one thread: tests run beside each other, and threads that wait for a share of a core spin."""
    import torch  # seconds to import, and few tests need it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
