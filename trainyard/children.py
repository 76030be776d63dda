"""Child processes of `trainyard up`: started on a leash, restarted when they die, stopped whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")
ROOT = Path(__file__).resolve().parent.parent  # holds `app` and `worker`, in a checkout and installed alike
ROTATE_BYTES = 10_000_000
QUICK_DEATH_S = 30.0  # a child that lived for less has not worked
MAX_QUICK_DEATHS = 5
MAX_BACK_OFF_S = 8.0


@dataclass
class Child:
    """One command and the process that runs it now.

    `stop_s` is how long it may take to end after SIGTERM; `lock` is a descriptor whose lock its leash keeps
    for as long as it lives.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    stop_s: float
    lock: int | None = None
    restart_at: float | None = None
    _popen: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _started_at: float = 0.0
    _quick_deaths: int = 0

    def start(self) -> None:
        """Start the command in a session of its own, its output appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        rotate(self.log)
        self.restart_at = None
        self._started_at = time.monotonic()
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), f"{self.stop_s:g}", *self.command],
                env=dict(self.env),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
                pass_fds=() if self.lock is None else (self.lock,),
            )

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def wait(self, within_s: float) -> int | None:
        """The exit code, or None when it still runs after `within_s`."""
        assert self._popen is not None
        with suppress(subprocess.TimeoutExpired):
            return self._popen.wait(within_s)
        return None

    def bury(self) -> tuple[int, float | None]:
        """After a death: what is left of its group is killed.

        The exit code, and in how many seconds to restart.

        None instead of the seconds when it died quickly too often and is given up.
        """
        assert self._popen is not None
        code = self._popen.wait()
        self._kill_group()
        lived_s = time.monotonic() - self._started_at
        self._quick_deaths = self._quick_deaths + 1 if lived_s < QUICK_DEATH_S else 1
        if self._quick_deaths >= MAX_QUICK_DEATHS:
            return code, None
        back_off_s = min(MAX_BACK_OFF_S, 0.5 * 2 ** (self._quick_deaths - 1))
        self.restart_at = time.monotonic() + back_off_s
        return code, back_off_s

    def terminate(self) -> None:
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and its whole group now. Killing twice is no error."""
        if self._popen is not None:
            self._kill_group()
            self._popen.wait()

    def _kill_group(self) -> None:
        # The group's id stays taken while any member lives, also after the leash itself was reaped.
        assert self._popen is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def last_lines(self, count: int = 15) -> list[str]:
        return last_lines(self.log, count)


def rotate(log: Path) -> None:
    """Move a log over `ROTATE_BYTES` aside, in place of the one moved before."""
    if log.exists() and log.stat().st_size > ROTATE_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


def last_lines(log: Path, count: int) -> list[str]:
    if not log.exists():
        return []
    with log.open(errors="replace") as lines:
        return [line.rstrip("\n") for line in deque(lines, count)]
