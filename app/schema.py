"""Which schema the database has, and whether this version can work with it; without Alembic, which loads slowly."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db import Database
from app.errors import Unavailable
from app.settings import ROOT


def known_revisions() -> list[str]:
    """The names of all migrations of this version, the newest last: their files begin with them."""
    return sorted(
        path.name.partition("_")[0] for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py")
    )


def read_revision(db: Database) -> str | None:
    """The database's schema; None when it was never migrated. Raises: Unavailable."""
    try:
        with db.read() as s:
            return (
                s.connection().execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
            )
    except Unavailable as error:
        if "no tables" in error.message:
            return None
        raise
    except DBAPIError:  # Postgres: no such table
        return None


def describe_newer(revision: str | None) -> str | None:
    """Why this version must not touch a database of that schema; None when it knows it."""
    known = known_revisions()
    if revision is None or revision in known:
        return None
    return (
        f"the database has schema {revision}, and this version of Trainyard knows {known[-1]} at most: a newer version "
        "has used it. Install that version again, or restore a backup made before (`trainyard restore`)"
    )


def describe_mismatch(db: Database) -> str | None:
    """Why a server must not start on this database; None when it may, or when that cannot be known yet."""
    try:
        revision = read_revision(db)
    except Unavailable:
        return None  # it is not there at the moment; /readyz says so
    newest = known_revisions()[-1]
    if revision is None or revision == newest:
        return None
    return describe_newer(revision) or (
        f"the database has schema {revision}, and this version of Trainyard needs {newest}; run `trainyard migrate`"
    )
