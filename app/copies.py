"""Copies of a SQLite database that is in use: as of one moment, whole, and checked."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from app.errors import Unavailable


def copy_database(source: Path, target: Path) -> None:
    """Write the database as it is now to a new file, for its owner alone; writers go on meanwhile.

    All pages are copied in one step: with several, SQLite begins again whenever somebody has written in between.
    Raises: Unavailable, when it cannot be read or written, or when the copy is not sound; OSError.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=10)) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
            wrong = check_integrity(copy)
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise Unavailable(f"the database cannot be copied: {error}") from error
    if wrong is not None:
        target.unlink(missing_ok=True)
        raise Unavailable(f"the database is damaged ({wrong}); restore the last backup (`trainyard restore`)")


def check_integrity(connection: sqlite3.Connection) -> str | None:
    """The first thing that is wrong with a database, its foreign keys included; None when all is well."""
    [[found], *_] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        return str(found)
    broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    return f"a row of {broken[0]} belongs to nothing" if broken else None
