"""`trainyard up`: migrate, start Redis, web and worker, keep them running, stop them in order.

Every child runs on a leash (`trainyard.leash`), so that nothing outlives this process whatever ends it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from types import FrameType

import httpx
from rich.console import Console

from trainyard import broker, demo
from trainyard.banner import say, show_banner, show_log
from trainyard.children import ROOT, Child
from trainyard.http import is_loopback
from trainyard.lock import Busy, lock_data_dir
from trainyard.ports import PortTaken, claim_port, url_of

TICK_S = 0.1
READY_S = 90.0
MIGRATE_S = 600.0
DEMO_S = 5.0
STOP_S = {"worker": 35.0, "web": 10.0, "redis": 5.0}  # in this order; trainers write a checkpoint first
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Options:
    """What `trainyard up` was asked for; `port` 0 takes a free one."""

    host: str
    port: int
    data_dir: Path
    datasets: Path | None
    slots: int | None
    demo: bool


class Refused(Exception):
    """Why nothing was started, or why everything was stopped again, for the person at the terminal."""


def run(options: Options, console: Console, errors: Console) -> int:
    """Serve until a signal; the exit code: 0 after a signal, 1 when something could not be started."""
    try:
        with ExitStack() as cleanup:
            Launcher(options, console, cleanup).serve()
    except (Refused, Busy, PortTaken, OSError) as error:
        errors.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    return 0


class Launcher:
    """The children of one `trainyard up` and the signals that end them."""

    def __init__(self, options: Options, console: Console, cleanup: ExitStack) -> None:
        self._options = options
        self._console = console
        self._cleanup = cleanup
        self._stop = threading.Event()
        self._hurry = False
        self._children: list[Child] = []
        self._lock: int | None = None
        self._show: threading.Thread | None = None
        self._token: str | None = None
        self.url = ""

    def serve(self) -> None:
        """Start everything, say so, and stay until a signal. Raises: Refused, Busy, PortTaken."""
        self._catch_signals()
        options = self._options
        options.data_dir.mkdir(parents=True, exist_ok=True)
        options.data_dir.chmod(0o700)
        self._lock = self._cleanup.enter_context(lock_data_dir(options.data_dir, self._stop, self._console))
        port = claim_port(options.host, options.port)
        self.url = url_of(options.host, port)
        env, facts = self._prepare(port)
        self._cleanup.callback(self._stop_children)
        self._migrate(env)
        self._check_access(env)
        self._start(env)
        self._wait_ready()
        if not self._stop.is_set():
            show_banner(self._console, self.url, facts)
            if options.demo:
                self._show_demo()
            while not self._stop.wait(TICK_S):
                self._look_after()

    def _show_demo(self) -> None:
        args = (self.url, self._token, self._console, self._stop)
        self._show = threading.Thread(target=demo.run_demo, args=args, daemon=True)
        self._show.start()

    def _prepare(self, port: int) -> tuple[dict[str, str], dict[str, str]]:
        """The children's environment, with Redis among them if it is ours; and the facts for the banner."""
        options = self._options
        env = dict(os.environ) | {
            "PYTHONUNBUFFERED": "1",
            "TRAINYARD_DATA_DIR": str(options.data_dir),
            "TRAINYARD_HOST": options.host,
            "TRAINYARD_PORT": str(port),
        }
        if not is_loopback(options.host):
            # The web process answers to names it knows; give it those by which other machines will call it.
            names = (env.get("TRAINYARD_ALLOWED_HOSTS", ""), options.host, gethostname())
            env["TRAINYARD_ALLOWED_HOSTS"] = ",".join(name for name in names if name)
        if options.datasets is not None:
            env["TRAINYARD_DATASETS"] = str(options.datasets.expanduser().resolve())
        facts = {
            "Data": str(options.data_dir),
            "Datasets": env.get("TRAINYARD_DATASETS") or str(options.data_dir / "datasets"),
            "Database": "the one in TRAINYARD_DATABASE_URL"
            if env.get("TRAINYARD_DATABASE_URL")
            else "SQLite",
            "Queue": "the one in TRAINYARD_BROKER_URL",
            "Worker": f"{options.slots} slots"
            if options.slots
            else "one slot a GPU; without a GPU two on the CPU",
            "Logs": str(self._logs),
        }
        if not env.get("TRAINYARD_BROKER_URL"):
            program, version = broker.find_redis()
            socket = self._socket()
            env["TRAINYARD_BROKER_URL"] = broker.url(socket)
            facts["Queue"] = f"Redis {version} on a private socket"
            command = broker.command(program, socket, options.data_dir)
            self._children.append(self._child("redis", command, os.environ))
        return env, facts

    def _socket(self) -> Path:
        """In the data directory, or in a private temporary one where that path is too long for a socket."""
        socket = self._options.data_dir / "redis.sock"
        if len(os.fsencode(socket)) <= broker.MAX_SOCKET_BYTES:
            return socket
        folder = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="trainyard-"))
        return Path(folder) / "redis.sock"

    @property
    def _logs(self) -> Path:
        return self._options.data_dir / "logs"

    def _child(self, name: str, command: list[str], env: dict[str, str] | os._Environ[str]) -> Child:
        return Child(name, command, env, self._logs / f"{name}.log", STOP_S.get(name, 5.0), self._lock)

    def _migrate(self, env: dict[str, str]) -> None:
        child = self._child("migrate", [sys.executable, "-m", "app.migrate"], env)
        child.start()
        deadline = time.monotonic() + MIGRATE_S
        try:
            while (code := child.wait(TICK_S)) is None and not self._stop.is_set():
                if time.monotonic() > deadline:
                    raise Refused(
                        f"bringing the database up to date took over {MIGRATE_S:g} s; see {child.log}"
                    )
        finally:
            child.kill()
        if code:
            show_log(self._console, child.log)
            raise Refused("the database could not be brought up to date; the reason is above")

    def _check_access(self, env: dict[str, str]) -> None:
        """Give the demo a token where one is asked for; it ends with this process, and no database holds it.

        Raises: Refused when other machines could come in and nobody has a token.
        """
        exposed = not is_loopback(self._options.host)
        self._token = env.get("TRAINYARD_TOKEN")
        if self._token or not (exposed or self._options.demo):
            return
        if self._has_tokens(env):
            if self._options.demo:
                self._token = env["TRAINYARD_TOKEN"] = secrets.token_urlsafe(32)
        elif exposed:
            raise Refused(
                f"--host {self._options.host} lets other machines in; make a token first with `trainyard token create "
                "NAME --scope admin`, or set TRAINYARD_TOKEN to a long secret, or leave --host out to serve this "
                "machine alone"
            )

    def _has_tokens(self, env: dict[str, str]) -> bool:
        """Whether the database holds any, so that its server asks for one."""
        command = [sys.executable, "-m", "app.token_command", "list", "--json"]
        listed = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        return listed.returncode == 0 and bool(json.loads(listed.stdout))

    def _start(self, env: dict[str, str]) -> None:
        slots = ["--slots", str(self._options.slots)] if self._options.slots else []
        self._children.append(self._child("web", [sys.executable, "-m", "app"], env))
        self._children.append(self._child("worker", [sys.executable, "-m", "worker", *slots], env))
        for child in self._children:
            if not self._stop.is_set():
                child.start()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        with httpx.Client(trust_env=False, timeout=5) as client:
            while not self._stop.wait(TICK_S):
                self._check_started()
                try:
                    if client.get(f"{self.url}/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                if time.monotonic() > deadline:
                    raise Refused(f"the web process was not ready after {READY_S:g} s; see {self._logs}")

    def _check_started(self) -> None:
        """Raises: Refused when a child has ended before all was ready: trying again would not help."""
        for child in self._children:
            if not child.running:
                show_log(self._console, child.log)
                raise Refused(f"{child.name} could not be started; the reason is above")

    def _look_after(self) -> None:
        """Restart what has died, later each time. Raises: Refused when one keeps dying."""
        for child in self._children:
            if child.restart_at is not None:
                if time.monotonic() >= child.restart_at:
                    child.start()
            elif not child.running:
                code, back_off_s = child.bury()
                if child.name == "worker" and code == 0:  # somebody drained it
                    self._children.remove(child)
                    say(
                        self._console,
                        "The worker has ended, as it was asked to; the pages stay. Runs wait for another.",
                    )
                    return
                if back_off_s is None:
                    show_log(self._console, child.log)
                    raise Refused(f"{child.name} keeps ending with code {code}; its last lines are above")
                say(
                    self._console,
                    f"{child.name} ended with code {code}; starting it again in {back_off_s:g} s",
                )
                show_log(self._console, child.log, 5)

    def _catch_signals(self) -> None:
        for signum in STOP_SIGNALS:
            self._cleanup.callback(signal.signal, signum, signal.getsignal(signum))
            signal.signal(signum, self._on_signal)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self._hurry = self._stop.is_set()
        self._stop.set()

    def _stop_children(self) -> None:
        """Worker, web, Redis, one after the other; a second signal kills what is left at once."""
        self._stop.set()
        if any(child.running for child in self._children):
            say(
                self._console,
                "Stopping; runs that train write a checkpoint first. Again Ctrl-C: stop at once.",
            )
        for child in reversed(self._children):
            if child.running:
                child.terminate()
                deadline = time.monotonic() + child.stop_s
                while child.running and not self._hurry and time.monotonic() < deadline:
                    child.wait(TICK_S)
            child.kill()
        if self._show is not None:
            self._show.join(DEMO_S)  # it gives the terminal its cursor back
        say(self._console, "Stopped.")
