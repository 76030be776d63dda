"""The web process: `python -m app` (settings from TRAINYARD_* variables; `trainyard web` runs the same)."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn

from app.main import create_app
from app.security import needs_token, weak_token
from app.settings import get_settings


class Server(uvicorn.Server):
    """uvicorn that ends the event streams first: with one open, plain uvicorn does not stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app: Any = self.config.app
        app.state.hub.close_streams()
        super().handle_exit(sig, frame)


def main() -> int:
    settings = get_settings()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    refusal = needs_token(settings.host, settings.token) or weak_token([settings.token])
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
        http="httptools",
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=5,
        limit_concurrency=1_200,
        proxy_headers=False,
    )
    server = Server(config)
    for ended_by in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped in good order: that is no reason to exit with an error.
        signal.signal(ended_by, lambda *_: None)
    server.run(sockets=[listener])
    return 0 if server.started else 1


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
