"""Migrations keep what is there, on SQLite and Postgres."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.exc import IntegrityError

from app.migrate import alembic_config
from app.settings import database_url

RUN = {
    "id": "r1", "name": "a run", "kind": "training", "tags": "[]", "notes": "", "spec": "{}", "resolved": "{}",
    "state": "queued", "attempt": 2, "failures": 0, "cancel_requested": False, "pause_requested": False, "phase": "",
    "not_before": 0, "created_at": 1, "queued_at": 1, "updated_at": 1, "revision": 3, "seq": 4, "step": 5,
    "total_steps": 6, "epoch": 0, "steps_per_epoch": 6,
}  # fmt: skip
EVENT = {"run_id": "r1", "at": 1, "to_state": "queued", "actor": "user", "reason": "submitted", "attempt": 0}


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without a table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'old.db'}"
    return database_url(request.getfixturevalue("postgres").create_database())


def insert(connection: sa.Connection, table: str, values: dict[str, object]) -> None:
    names = ", ".join(values)
    connection.execute(
        sa.text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{n}' for n in values)})"), values
    )


def list_indexes(connection: sa.Connection) -> list[str]:
    """With columns and conditions, as text: two conditions that say the same are not equal."""
    found = sa.inspect(connection).get_indexes("run")
    conditions = [str(one.get("dialect_options", {}).get("sqlite_where", "")) for one in found]
    return sorted(
        f"{one['name']} {one['column_names']} {text}" for one, text in zip(found, conditions, strict=True)
    )


def test_runs_and_their_events_outlive_the_rebuilding_of_their_table(empty_url: str) -> None:
    config = alembic_config(empty_url)
    command.upgrade(config, "0006")
    engine = sa.create_engine(empty_url)
    with engine.begin() as connection:
        insert(connection, "run", RUN)
        insert(connection, "run_event", EVENT)
        indexes = list_indexes(connection)
        if engine.dialect.name == "sqlite":  # as an upgrade that was interrupted leaves it
            connection.execute(sa.text("CREATE TABLE _alembic_tmp_run (id TEXT)"))

    for revision in ("head", "0006", "head"):
        (command.downgrade if revision == "0006" else command.upgrade)(config, revision)
        with engine.connect() as connection:
            row = connection.execute(sa.text("SELECT name, state, attempt, seq, step FROM run")).one()
            assert tuple(row) == ("a run", "queued", 2, 4, 5)
            assert connection.execute(sa.text("SELECT count(*) FROM run_event")).scalar_one() == 1
            assert list_indexes(connection) == indexes
    engine.dispose()


def test_the_database_refuses_a_state_that_there_is_not(db_url: str) -> None:
    engine = sa.create_engine(db_url)
    with engine.begin() as connection:
        insert(connection, "run", {**RUN, "style": 0, "compacted_seq": 0})
    with pytest.raises(IntegrityError, match="ck_run_state"), engine.begin() as connection:
        connection.execute(sa.text("UPDATE run SET state = 'lost'"))
    engine.dispose()
