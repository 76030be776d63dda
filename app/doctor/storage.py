"""The data directory, its disk and the database."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import text

from app.db import Database
from app.disk import MB, describe_shortage
from app.doctor.finding import Finding, ok, problem, warning
from app.errors import Unavailable
from app.mounts import describe_network
from app.schema import describe_newer, known_revisions, read_revision
from app.settings import Settings

FEW_BYTES = 5_000_000_000
LARGE_WAL_BYTES = 500_000_000
LOCK_S = 5.0


def check_data_dir(settings: Settings) -> Iterator[Finding]:
    name, folder = "data directory", settings.data_dir
    if not folder.exists():
        yield ok(name, f"{folder} is not there yet; `trainyard up` makes it")
        return
    status = folder.stat()
    if status.st_uid != os.geteuid():
        yield problem(
            name, f"{folder} belongs to another user", f"run as that user, or: chown -R $(id -u) {folder}"
        )
    elif status.st_mode & 0o077:
        yield warning(name, f"others on this machine may look into {folder}", f"chmod 700 {folder}")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield problem(name, f"{folder} cannot be written", f"chmod u+rwx {folder}")
    else:
        yield ok(name, str(folder))


def check_disk(settings: Settings) -> Iterator[Finding]:
    folder = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    usage = shutil.disk_usage(folder)
    left = f"{usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB free"
    remedy = "free some space; `trainyard gc` says what Trainyard itself could give back"
    if describe_shortage(folder, settings.min_free_mb) is not None:
        yield problem("disk", f"{left}: no run is started below {settings.min_free_mb:,} MB", remedy)
    elif usage.free < max(FEW_BYTES, 2 * settings.min_free_mb * MB):
        yield warning("disk", left, remedy)
    else:
        yield ok("disk", left)


def check_database(settings: Settings) -> Iterator[Finding]:
    db = Database(settings.database_url, busy_timeout_s=LOCK_S)
    try:
        path = Path(db.url.database or "") if db.is_sqlite else None
        if path is not None and not path.exists():
            yield ok("database", f"{path} is not there yet; `trainyard up` makes it")
            return
        try:
            yield from _check_schema(db)
            yield from _check_sqlite(path) if path is not None else _check_postgres(db)
        except Unavailable as error:
            yield problem("database", error.message, "see docs/operations.md, Troubleshooting")
    finally:
        db.dispose()


def _check_schema(db: Database) -> Iterator[Finding]:
    revision, newest = read_revision(db), known_revisions()[-1]
    if (newer := describe_newer(revision)) is not None:
        yield problem("schema", newer, "install the newer version again")
    elif revision != newest:
        yield problem("schema", f"{revision or 'none'}, and this version needs {newest}", "trainyard migrate")
    else:
        yield ok("schema", newest)


def _check_sqlite(path: Path) -> Iterator[Finding]:
    name = "database"
    if (network := describe_network(path)) is not None:
        yield problem(name, network, "move it while nothing runs: trainyard backup, then trainyard restore")
    try:
        with closing(sqlite3.connect(path, timeout=LOCK_S, isolation_level=None)) as connection:
            [[told], *_] = connection.execute("PRAGMA quick_check(1)").fetchall()
            [mode] = connection.execute("PRAGMA journal_mode").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        remedy = "wait for, or end, what holds it (fuser shows who); see that you may write the file"
        yield problem(name, f"SQLite cannot be written: {error}", remedy)
        return
    except sqlite3.DatabaseError as error:
        told, mode = str(error), "wal"
    if told != "ok":
        yield problem(name, f"SQLite is damaged: {told}", "stop everything, keep the file, trainyard restore")
        return
    wal = Path(f"{path}-wal")
    log = wal.stat().st_size if wal.exists() else 0
    if mode != "wal":
        yield warning(name, f"its journal is {mode}, not wal", "start Trainyard once; it sets that itself")
    elif log > LARGE_WAL_BYTES:
        yield warning(
            name,
            f"its write-ahead log has {log / MB:,.0f} MB",
            "something reads without end: restart the web process",
        )
    else:
        yield ok(
            name, f"SQLite {sqlite3.sqlite_version}, {path.stat().st_size / MB:,.1f} MB, sound, writable"
        )


def _check_postgres(db: Database) -> Iterator[Finding]:
    name = "database"
    with db.read() as s:
        ask = s.connection()
        server = ask.execute(text("SHOW server_version")).scalar_one()
        follows = ask.execute(text("SELECT pg_is_in_recovery()")).scalar_one()
        size = ask.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        may = ask.execute(text("SELECT has_table_privilege('run', 'INSERT')")).scalar_one()
        used = ask.execute(text("SELECT count(*) FROM pg_stat_activity")).scalar_one()
        most = int(ask.execute(text("SHOW max_connections")).scalar_one())
    if follows:
        yield problem(
            name, "this Postgres only follows another", "point TRAINYARD_DATABASE_URL at the primary"
        )
    elif not may:
        yield problem(name, "its user may not write the tables", "GRANT it the tables, or use their owner")
    elif used > 0.8 * most:
        yield warning(
            name, f"{used} of {most} connections are in use", "raise max_connections in postgresql.conf"
        )
    else:
        yield ok(name, f"Postgres {server}, {size / MB:,.1f} MB, writable, {used} of {most} connections")
