"""Bring the database to the newest schema: `python -m app.migrate` (`trainyard migrate` runs the same)."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import SQLAlchemyError

from app.copies import copy_database
from app.db import Database
from app.errors import Conflict, TrainyardError, Unavailable
from app.mounts import describe_network
from app.schema import describe_newer, known_revisions, read_revision
from app.settings import ROOT, Settings, get_settings, make_data_dir

KEPT_COPIES = 3


def alembic_config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def migrate(url: str) -> None:
    command.upgrade(alembic_config(url), "head")


def check(url: str) -> None:
    """Raises: alembic.util.CommandError when the tables in the code differ from the newest migration."""
    command.check(alembic_config(url))


def main() -> int:
    settings = get_settings()
    os.umask(0o077)
    make_data_dir(settings)
    try:
        keep_copy(settings)
        migrate(settings.database_url)
        if "--check" in sys.argv[1:]:
            check(settings.database_url)
    except (TrainyardError, OSError) as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return 1
    except SQLAlchemyError as error:
        print(f"trainyard: cannot migrate the database ({type(error).__name__}); "
              "check that it runs and that TRAINYARD_DATABASE_URL is right", file=sys.stderr)  # fmt: skip
        return 1
    return 0


def keep_copy(settings: Settings) -> None:
    """Copy a SQLite database aside before its schema changes, and drop older copies.

    Raises: Conflict, when a newer version has used it, or it lies on a network file system; Unavailable, when it is
    damaged or there is no room; OSError.
    """
    db = Database(settings.database_url)
    try:
        revision = read_revision(db)
    finally:
        db.dispose()
    if (newer := describe_newer(revision)) is not None:
        raise Conflict(newer)
    if db.is_sqlite and (network := describe_network(Path(db.url.database or ""))) is not None:
        raise Conflict(network)
    if not db.is_sqlite or revision in (None, known_revisions()[-1]):
        return
    source, folder = Path(db.url.database or ""), settings.data_dir / "before-migration"
    folder.mkdir(mode=0o700, exist_ok=True)
    needed = 2 * source.stat().st_size
    if shutil.disk_usage(folder).free < needed:
        raise Unavailable(
            f"the database is copied to {folder} before its schema changes, and that disk is too full; "
            f"free {needed / 1e6:,.0f} MB"
        )
    target = folder / time.strftime(f"schema-{revision}-%Y%m%d-%H%M%S.db", time.gmtime())
    copy_database(source, target)
    print(f"the database as it was: {target}")
    for old in sorted(folder.glob("schema-*.db"), key=lambda path: path.stat().st_mtime)[:-KEPT_COPIES]:
        old.unlink()


if __name__ == "__main__":
    sys.exit(main())
