"""Bring the database to the newest schema: `python -m app.migrate` (`trainyard migrate` runs the same)."""

from __future__ import annotations

import os
import sys

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import SQLAlchemyError

from app.settings import ROOT, get_settings, make_data_dir


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
        migrate(settings.database_url)
        if "--check" in sys.argv[1:]:
            check(settings.database_url)
    except SQLAlchemyError as error:
        print(f"trainyard: cannot migrate the database ({type(error).__name__}); "
              "check that it runs and that TRAINYARD_DATABASE_URL is right", file=sys.stderr)  # fmt: skip
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
