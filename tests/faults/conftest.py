"""Yards of the fault tests: one a module and database for faults that leave it usable, as processes start slowly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.figures import Figures
from tests.faults.yard import Yard, a_yard
from tests.processes import Postgres


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole processes: all of it is slow."""
    for item in items:
        if item.path.parent.name == "faults":
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Named by the test's docstring up to its colon: '''F1 trainer killed: ...'''"""
    told = (request.function.__doc__ or request.function.__name__).partition(":")[0]
    return Figures(told.strip(), request.node)


@pytest.fixture(scope="module")
def sqlite_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    with a_yard(tmp_path_factory.mktemp("faults-sqlite")) as yard:
        yield yard


@pytest.fixture(scope="module")
def postgres_ground(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Yard]:
    directory = tmp_path_factory.mktemp("faults-postgres")
    with a_yard(directory, database_url=postgres.create_database()) as yard:
        yield yard


@pytest.fixture
def yard(sqlite_ground: Yard) -> Iterator[Yard]:
    """The module's Redis, SQLite and web process, without a worker: `with yard.worker(slots=2): ...`."""
    yield sqlite_ground
    sqlite_ground.cancel_all()


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest) -> Iterator[Yard]:
    """As `yard`, on both databases."""
    ground: Yard = request.getfixturevalue(f"{request.param}_ground")
    yield ground
    ground.cancel_all()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def manned_ground(request: pytest.FixtureRequest) -> Iterator[Yard]:
    ground: Yard = request.getfixturevalue(f"{request.param}_ground")
    with ground.worker(slots=2):
        yield ground


@pytest.fixture
def manned(manned_ground: Yard) -> Iterator[Yard]:
    """On both databases, with a worker of two slots that a test leaves as it was."""
    yield manned_ground
    manned_ground.cancel_all()


@pytest.fixture(scope="module")
def crewed_ground(sqlite_ground: Yard) -> Iterator[Yard]:
    with sqlite_ground.worker(slots=2):
        yield sqlite_ground


@pytest.fixture
def crewed(crewed_ground: Yard) -> Iterator[Yard]:
    """As `manned`, on SQLite alone: for faults that know no difference."""
    yield crewed_ground
    crewed_ground.cancel_all()
