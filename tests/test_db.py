"""Transactions: what survives a power cut, and what a database that is full says."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from app.db import Database
from app.errors import Unavailable
from app.runs import NewRun, create_run


def synchronous(db: Database, *, durable: bool) -> int:
    with db.begin(durable=durable) as s:
        return int(s.connection().execute(text("PRAGMA synchronous")).scalar_one())


def test_only_durable_transactions_wait_for_the_disk(migrated_file: Path, tmp_path: Path) -> None:
    """https://sqlite.org/pragma.html#pragma_synchronous: 1 is NORMAL, 2 is FULL."""
    path = tmp_path / "test.db"
    path.write_bytes(migrated_file.read_bytes())
    db = Database(f"sqlite:///{path}", pool_size=1)
    assert [synchronous(db, durable=durable) for durable in (False, True, False)] == [1, 2, 1]
    db.dispose()


def test_a_durable_transaction_is_one_on_both(db: Database) -> None:
    with db.begin(durable=True) as s:
        run, _ = create_run(s, NewRun(None), max_queued=1)
    with db.read() as s:
        assert s.connection().execute(text("SELECT id FROM run")).scalars().all() == [run.id]


def test_a_full_database_says_what_to_do_and_stays_whole(migrated_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.write_bytes(migrated_file.read_bytes())
    db = Database(f"sqlite:///{path}", pool_size=1)
    with db.begin() as s:
        pages = s.connection().execute(text("PRAGMA page_count")).scalar_one()
        s.connection().execute(
            text(f"PRAGMA max_page_count={pages}")
        )  # of this connection, as a full disk is of all

    def fill() -> None:
        with db.begin() as s:
            for _ in range(100):
                create_run(s, NewRun(None, notes="n" * 10_000), max_queued=1)

    with pytest.raises(Unavailable, match=r"full.*free some space"):
        fill()
    with db.begin() as s:
        s.connection().execute(text("PRAGMA max_page_count=1000000"))
        assert s.connection().execute(text("SELECT count(*) FROM run")).scalar_one() == 0
    fill()
    with db.read() as s:
        assert s.connection().execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        assert s.connection().execute(text("SELECT count(*) FROM run")).scalar_one() == 100
    db.dispose()
