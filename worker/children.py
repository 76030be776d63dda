"""The processes that know torch, as the worker has them: forked from one that has imported it, or started one by one.

Each plays a role, the module of this package whose `main` it runs: `trainer`, or for a pre-flight `anatomist` and
`pace`, which answer on their standard output.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from app.settings import ROOT
from worker.environment import trainer_environment
from worker.trainer_exit import EXIT_CRASHED

CAN_FORK = sys.platform == "linux"
DEAF_S = 10.0  # so long after SIGKILL its server may take to say that a child has ended
START_S = 60.0  # the import of torch, on a machine that is busy
PACKET = 64
NOBODY = -1  # told for a child that could not be forked
TRAINER, ANATOMIST, PACE = "trainer", "anatomist", "pace"  # shown by `ps -o comm` and `top` for forked ones


class Closing(Exception):
    """The worker is about to end and starts nothing."""


class Child(ABC):
    """A process in its role, the leader of its own session. It ends with its standard input, and so with the worker."""

    def __init__(self, stdin: int, stdout: int | None) -> None:
        self._stdin, self._stdout = stdin, stdout

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit code, negative for a signal; None while it has not ended within the time."""

    @abstractmethod
    def signal(self, sig: signal.Signals) -> None:
        """To it alone for SIGTERM, to its whole group for SIGKILL."""

    def alive(self) -> bool:
        return self.wait(0) is None

    def say(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # it died: its exit code tells
            while line:
                line = line[os.write(self._stdin, line) :]

    def hear(self, timeout_s: float) -> bytes:
        """What it says up to the end of a line; without that end when it ends before, or takes too long."""
        assert self._stdout is not None
        said, deadline = b"", time.monotonic() + timeout_s
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([self._stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._stdout, 1 << 20) if ready else b""
            if not piece:
                break
            said += piece
        return said

    def close(self) -> None:
        """End it, if it has not ended, and let go of its pipes. Once."""
        self.signal(signal.SIGKILL)
        while self.wait(DEAF_S) is None:
            self.signal(signal.SIGKILL)  # it may only now have begun
        let_go((self._stdin, self._stdout))


def open_pipes(role: str) -> tuple[list[int], tuple[int, int | None]]:
    """The child's ends, of its standard input and, unless it is a trainer, output; and ours."""
    stdin, to = os.pipe()
    if role == TRAINER:
        return [stdin], (to, None)
    come, stdout = os.pipe()
    return [stdin, stdout], (to, come)


def let_go(pipes: Sequence[int | None]) -> None:
    """Of the child's ends when it has them, or we would not see its end; of ours in the end."""
    for pipe in pipes:
        if pipe is not None:
            os.close(pipe)


def send(pid: int, sig: signal.Signals) -> None:
    if sig == signal.SIGKILL:
        with suppress(ProcessLookupError):  # one that has just been forked has no group yet
            return os.killpg(pid, sig)
    with suppress(ProcessLookupError):
        os.kill(pid, sig)
    return None


# -- started one by one -----------------------------------------------------------------------------------------------


class StartedChild(Child):
    """One that imports torch itself."""

    def __init__(self, role: str, threads: int) -> None:
        theirs, ours = open_pipes(role)
        stdin, stdout = [*theirs, subprocess.DEVNULL][:2]
        self._popen = subprocess.Popen(
            [sys.executable, "-m", f"worker.{role}"],
            stdin=stdin,
            stdout=stdout,
            cwd=ROOT,
            env=trainer_environment(os.environ, threads),
            start_new_session=True,
        )
        let_go(theirs)
        super().__init__(*ours)

    def wait(self, timeout_s: float | None = None) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._popen.wait(timeout_s)
        return None

    def signal(self, sig: signal.Signals) -> None:
        if self._popen.poll() is None:
            send(self._popen.pid, sig)


# -- forked -----------------------------------------------------------------------------------------------------------


class ForkedChild(Child):
    """One that a ForkServer forks, as soon as that has imported torch."""

    def __init__(self, role: str, pipes: tuple[int, int | None], server: ForkServer) -> None:
        super().__init__(*pipes)
        self._role, self._server = role, server
        self._pid: int | None = None
        self._code: int | None = None
        self._killed_at: float | None = None
        self._lock = threading.Lock()
        self._begun, self._ended = threading.Event(), threading.Event()

    def begin(self, pid: int) -> None:
        self._pid = pid
        self._begun.set()

    def end(self, code: int) -> None:
        """After this no signal is sent to its number, which may become another process's."""
        with self._lock:
            self._code = code
        self._begun.set()
        self._ended.set()

    def wait(self, timeout_s: float | None = None) -> int | None:
        if self._ended.wait(timeout_s):
            return self._code
        is_deaf = self._killed_at is not None and time.monotonic() - self._killed_at > DEAF_S
        if is_deaf and self._role == TRAINER:  # for others no training is ended
            self._server.close()  # it was stopped, or hangs: nobody else would tell us
        return self._code

    def signal(self, sig: signal.Signals) -> None:
        self._begun.wait(START_S)
        with self._lock:
            if self._pid is not None and self._code is None:
                send(self._pid, sig)
            if sig == signal.SIGKILL and self._killed_at is None:
                self._killed_at = time.monotonic()


class ForkServer:
    """`python -m worker.forkserver` and a thread that hears of its children. It lives as long as `alive`; when it dies,
    they are ended, as nobody would hear of their end."""

    def __init__(self, threads: int) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "worker.forkserver", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
                env=trainer_environment(os.environ, threads),
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        self.alive = True
        self._asked: deque[ForkedChild] = deque()
        self._running: dict[int, ForkedChild] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._hear, name="forkserver", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def fork(self, role: str = TRAINER) -> ForkedChild:
        """A new child; one that has ended already where the server has died."""
        theirs, ours = open_pipes(role)
        child = ForkedChild(role, ours, self)
        with self._lock:
            if self.alive:
                self._asked.append(child)
                with suppress(OSError):  # it has just died, and `_hear` will end the child
                    socket.send_fds(self._channel, [f"fork {role}".encode()], theirs)
            else:
                child.end(self._popen.wait())
        let_go(theirs)
        return child

    def close(self) -> None:
        """End it and what it has forked."""
        self._popen.kill()
        self._thread.join()

    def _hear(self) -> None:
        with suppress(OSError):
            while packet := self._channel.recv(PACKET):
                pid, *code = map(int, packet.split())
                if code:
                    self._running.pop(pid).end(*code)
                    self._channel.send(b"reap %d" % pid)
                else:
                    self._begin(self._asked.popleft(), pid)
        self._bury()

    def _begin(self, child: ForkedChild, pid: int) -> None:
        if pid == NOBODY:
            return child.end(EXIT_CRASHED)
        self._running[pid] = child
        return child.begin(pid)

    def _bury(self) -> None:
        with self._lock:
            self.alive = False
            self._channel.close()
        self._popen.kill()  # should it be alive, but out of reach
        code = self._popen.wait()
        for child in self._running.values():
            child.signal(signal.SIGKILL)
            child.end(-signal.SIGKILL)
        for child in self._asked:
            child.end(code)
