"""The web process: `python -m app` (settings from TRAINYARD_* variables; `trainyard web` runs the same)."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from importlib.metadata import version
from types import FrameType
from typing import Any

import uvicorn

from app import logs, queue, tokens
from app.connection import BoundedProtocol
from app.db import Database
from app.errors import Unavailable
from app.guard import is_loopback, needs_token, weak_token
from app.main import create_app
from app.schema import describe_mismatch
from app.settings import Settings, get_settings

log = logging.getLogger("app")


class Server(uvicorn.Server):
    """uvicorn that ends the event streams first: with one open, plain uvicorn does not stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app: Any = self.config.app
        app.state.hub.close_streams()
        super().handle_exit(sig, frame)


def main() -> int:
    settings = get_settings()
    os.umask(0o077)  # what is written is for the account that runs this alone
    logs.configure(settings)
    refusal = (
        weak_token([settings.token])
        or _why_not(settings)
        or queue.refuse_broker(settings.broker_url)
        or _why_not_on(settings.database_url)
    )
    if refusal:
        print(f"trainyard: {refusal}", file=sys.stderr)
        return 1
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        print(f"trainyard: cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
              "stop what uses it, or choose another with --port", file=sys.stderr)  # fmt: skip
        return 1
    settings.port = listener.getsockname()[1]
    config = uvicorn.Config(
        create_app(settings),
        loop="uvloop",
        http=BoundedProtocol,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=5,
        limit_concurrency=1_200,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or "127.0.0.1",
    )
    server = Server(config)
    for ended_by in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped in good order: that is no reason to exit with an error.
        signal.signal(ended_by, lambda *_: None)
    log.info(
        "the web process of Trainyard %s listens on %s:%d", version("trainyard"), settings.host, settings.port
    )
    # What is loaded now stays: a full collection that walked it would hold every request up, and so come too rarely.
    gc.collect()
    gc.freeze()
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _why_not(settings: Settings) -> str | None:
    """Why this address may not be bound, or None; the database is asked only where it decides."""
    if settings.token or is_loopback(settings.host):
        return None
    database = Database(settings.database_url)
    try:
        with database.read() as s:
            return needs_token(settings.host, is_wanted=tokens.any_made(s))
    except Unavailable as error:
        if "no tables" in error.message:
            return needs_token(settings.host, is_wanted=False)
        return f"cannot tell whether anybody has a token: {error.message}; or set TRAINYARD_TOKEN"
    finally:
        database.dispose()


def _why_not_on(url: str) -> str | None:
    """Why the database is none for this version, or None."""
    database = Database(url)
    try:
        return describe_mismatch(database)
    finally:
        database.dispose()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2_048)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(False)
    return listener


if __name__ == "__main__":
    sys.exit(main())
