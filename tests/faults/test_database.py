"""F11, F12, F22: the database is away, locked, or rebuilt by a migration, while a run trains."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import psycopg
from alembic import command

from app.migrate import alembic_config
from tests import processes
from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, Yard, a_yard, pause
from tests.processes import ROOT, Postgres

AWAY_S, LOCKED_S, MIGRATING_S = 4.0, 12.0, 4.0  # longer than a lease, and than SQLite's patience


def test_postgres_is_gone_for_seconds(tmp_path: Path, figures: Figures) -> None:
    """F11a Postgres immediate stop for 4 s: points are kept and written when it is back, nobody is charged."""
    with (
        processes.postgres_server(tmp_path) as postgres,  # its own: others use the session's
        a_yard(tmp_path, database_url=postgres.create_database()) as yard,
        yard.worker(slots=2),
    ):
        run_id = yard.submit(LONG)
        before = yard.wait_steps(run_id, 20)
        os.kill(postgres.process.pid, signal.SIGQUIT)
        postgres.process.popen.wait(30)
        answer = yard.http.get("/api/v1/runs")
        assert answer.status_code == 503
        assert "cannot be reached" in answer.json()["error"]["message"]
        pause(AWAY_S)
        yard.cleanup.enter_context(postgres.again(tmp_path))
        figures.strike()
        yard.wait_steps(run_id, before.step + 20)
        figures.since(yard.backend, "flushed after it was back")
        yard.cancel(run_id)
        run = assert_intact(yard, run_id)
        assert (run.attempt, run.failures) == (1, 0), yard.describe(run_id)


def test_postgres_drops_every_connection_for_seconds(
    postgres_ground: Yard, postgres: Postgres, figures: Figures
) -> None:
    """F11b Postgres drops every connection for 2 s: whatever was under way is done again, nobody is charged."""
    yard = postgres_ground
    drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with yard.worker(slots=2), psycopg.connect(postgres.url(), autocommit=True) as admin:
        run_id = yard.submit(LONG, epochs=10)
        yard.wait_steps(run_id)
        for _ in range(20):
            admin.execute(drop, [yard.db.url.database])
            pause(0.1)
        figures.strike()
        yard.finish(run_id)
        figures.since(yard.backend, "finished")
        run = assert_intact(yard, run_id, final_state=True)
    assert (run.attempt, run.failures) == (1, 0), yard.describe(run_id)


def test_sqlite_is_locked_by_another_process(crewed: Yard, figures: Figures) -> None:
    """F12 SQLite locked for 12 s: a write is 503 with what to do, reading goes on, the trainer keeps its points."""
    run_id = crewed.submit(LONG)
    before = crewed.wait_steps(run_id, 20)
    database = crewed.directory / "trainyard.db"
    released = threading.Event()
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked_at = crewed.run(run_id).step

        def release() -> None:
            released.set()
            other.execute("ROLLBACK")

        timer = threading.Timer(LOCKED_S, release)
        timer.start()
        figures.strike()
        answer = crewed.http.patch(f"/api/v1/runs/{run_id}", json={"name": "x"}, timeout=30)
        figures.since(crewed.backend, "503 to a write")
        assert (answer.status_code, released.is_set()) == (503, False)
        assert int(answer.headers["retry-after"]) > 0
        assert "locked" in answer.json()["error"]["message"]
        seen = crewed.http.get(f"/api/v1/runs/{run_id}").json()
        assert (seen["state"], seen["step"]) == ("running", locked_at)
        timer.join()
    figures.strike()
    crewed.wait_steps(run_id, before.step + 20)
    figures.since(crewed.backend, "flushed after the lock")
    crewed.cancel(run_id)
    run = assert_intact(crewed, run_id)
    assert (run.attempt, run.failures) == (1, 0), crewed.describe(run_id)


def test_a_migration_while_a_run_trains(manned: Yard, figures: Figures, tmp_path: Path) -> None:
    """F22 migration: the run's table is rebuilt and held for 4 s; the trainer waits, then goes on, nothing is lost."""
    run_id = manned.submit(LONG)
    before = manned.wait_steps(run_id, 20)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    later = tmp_path / "migrations" / "versions" / "9999_later.py"
    later.write_text(LATER.format(head=newest_revision(), seconds=MIGRATING_S))
    config = alembic_config(manned.db.url.render_as_string(hide_password=False))
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    figures.strike()
    command.upgrade(config, "head")
    figures.strike()
    during = manned.run(run_id).step
    manned.wait_steps(run_id, max(before.step, during) + 20)
    figures.since(manned.backend, "flushed after it")
    run_of_it = manned.submit(LONG, epochs=2)  # the same code on the newer schema
    manned.finish(run_of_it)
    manned.cancel(run_id)
    for one in (run_id, run_of_it):
        run = assert_intact(manned, one)
        assert (run.attempt, run.failures) == (1, 0), manned.describe(one)
    command.downgrade(config, "-1")


LATER = """
import time
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9999", "{head}", None, None

def upgrade():
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("later", sa.Integer(), server_default="0", nullable=False))
        batch.alter_column("phase", type_=sa.String(length=300), existing_nullable=False)
    time.sleep({seconds})

def downgrade():
    with op.batch_alter_table("run") as batch:
        batch.drop_column("later")
        batch.alter_column("phase", type_=sa.String(length=200), existing_nullable=False)
"""


def newest_revision() -> str:
    names = sorted(path.name for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    return names[-1].partition("_")[0]
