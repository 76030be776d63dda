"""The database: engine, sessions and clock, for SQLite and Postgres alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from app.errors import Invalid, Unavailable

SQLITE_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA busy_timeout=10000",
    "PRAGMA foreign_keys=ON",
    "PRAGMA wal_autocheckpoint=1000",
    "PRAGMA journal_size_limit=67108864",
    "PRAGMA temp_store=MEMORY",
)
POSTGRES_OPTIONS = "-c statement_timeout=15s -c lock_timeout=5s -c idle_in_transaction_session_timeout=30s"


class Database:
    """A pool of connections. `begin()` is one write transaction, `read()` one read-only view."""

    def __init__(self, url: str, *, pool_size: int = 5, busy_timeout_s: float = 10.0) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 20, "pool_timeout": 10}
        if self.is_sqlite:
            options["connect_args"] = {"check_same_thread": False, "timeout": busy_timeout_s}
        else:
            # A server that hangs without closing its sockets is given up as a server that has gone is.
            patience = {"tcp_user_timeout": 20_000, "keepalives_idle": 10, "keepalives_interval": 5}
            options["connect_args"] = {"options": POSTGRES_OPTIONS, "connect_timeout": 3, **patience}
            options["pool_pre_ping"] = True
        self.engine: Engine = create_engine(self.url, **options)
        if self.is_sqlite:
            _configure_sqlite(self.engine, busy_timeout_s)
        self._reader = self.engine.execution_options(write=False)
        self._durable = self.engine.execution_options(durable=True)

    @contextmanager
    def begin(self, *, durable: bool = False) -> Iterator[Session]:
        """One write transaction: committed at the end, rolled back on any error.

        With `durable`, it and all before it survive a power cut as soon as it is committed. Without, SQLite may lose
        the last seconds then, as it waits for no disk; Postgres loses nothing either way.

        Raises: Unavailable, when the database is locked, full or cannot be reached.
        """
        engine = self._durable if durable else self.engine
        with _translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            session.connection()  # waits for its turn here, so that a lease counts from then
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view. Never hold it across an `await`: an open one stops SQLite's WAL from shrinking."""
        with _translated(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    def ping(self) -> None:
        """Raises: Unavailable, with the reason, when the database does not answer or was not migrated."""
        with self.read() as session:
            session.connection().execute(text("SELECT 1 FROM run LIMIT 1"))

    def dispose(self) -> None:
        self.engine.dispose()


def _configure_sqlite(engine: Engine, busy_timeout_s: float) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in SQLITE_PRAGMAS:
            connection.execute(pragma)
        connection.execute(f"PRAGMA busy_timeout={int(busy_timeout_s * 1000)}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        # A deferred BEGIN upgrades from read to write in the middle and loses updates; IMMEDIATE waits its turn.
        options = connection.get_execution_options()
        write = options.get("write", True)
        if write:
            connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get('durable') else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """Database trouble as one error with a remedy, without the URL and its password."""
    try:
        yield
    except OperationalError as error:
        raise Unavailable(_remedy(_told(error))) from error
    except PoolTimeout as error:
        raise Unavailable("the database is busy; try again in a few seconds") from error
    except DataError as error:
        raise Invalid(
            "the database cannot store one of the values: a number too large, or a NUL character"
        ) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(_remedy(_told(error))) from error
        if "UndefinedTable" in type(error.orig).__name__:
            raise Unavailable("the database has no tables yet; run `trainyard migrate`") from error
        raise


def _told(error: BaseException | None) -> str:
    """What the database said, and before that: a full SQLite has undone all, and knows no savepoint to go back to."""
    said = []
    while error is not None:
        if isinstance(error, DBAPIError):
            said.append(str(error.orig))
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def _remedy(message: str) -> str:
    if "locked" in message or "lock timeout" in message:
        return "the database is locked by another process; try again in a few seconds"
    if "no such table" in message:
        return "the database has no tables yet; run `trainyard migrate`"
    if "disk" in message or "full" in message or "space left" in message:
        return "the disk that holds the database is full or failing; free some space"
    return "the database cannot be reached; check that it runs and that TRAINYARD_DATABASE_URL is right"


def now(session: Session) -> float:
    """Unix seconds by the one clock that leases are measured with: Postgres's own, or this host's for SQLite."""
    bind = session.get_bind()
    if bind.dialect.name == "postgresql":
        return float(
            session.connection().execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )
    return time.time()
