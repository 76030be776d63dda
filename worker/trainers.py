"""The processes that train, as the worker has them: forked from one that has imported torch, or started one by one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress

from app.settings import ROOT
from worker.environment import trainer_environment
from worker.job import Job
from worker.trainer_exit import EXIT_CRASHED

CAN_FORK = sys.platform == "linux"
DEAF_S = 10.0  # so long after SIGKILL its server may take to say that a trainer has ended
START_S = 60.0  # the import of torch, on a machine that is busy
PACKET = 64
NOBODY = -1  # told for a trainer that could not be forked
NAME = "trainer"  # of a forked one in `ps -o comm` and `top`


class TrainerProcess(ABC):
    """A trainer, the leader of its own session. Its standard input stays open as long as we live."""

    def __init__(self, stdin: int) -> None:
        self._stdin = stdin

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit code, negative for a signal; None while it has not ended within the time."""

    @abstractmethod
    def signal(self, sig: signal.Signals) -> None:
        """To the trainer alone for SIGTERM, to its whole group for SIGKILL."""

    def alive(self) -> bool:
        return self.wait(0) is None

    def give(self, job: Job) -> None:
        line = job.to_line()
        with suppress(BrokenPipeError):  # it died: its exit code tells
            while line:
                line = line[os.write(self._stdin, line) :]

    def close(self) -> None:
        """End it, if it has not ended, and let go of its pipe."""
        self.signal(signal.SIGKILL)
        while self.wait(DEAF_S) is None:
            pass
        os.close(self._stdin)


def send(pid: int, sig: signal.Signals) -> None:
    if sig == signal.SIGKILL:
        with suppress(ProcessLookupError):  # one that has just been forked has no group yet
            return os.killpg(pid, sig)
    with suppress(ProcessLookupError):
        os.kill(pid, sig)
    return None


# -- started one by one -----------------------------------------------------------------------------------------------


class StartedTrainer(TrainerProcess):
    """One that imports torch itself."""

    def __init__(self, threads: int) -> None:
        theirs, ours = os.pipe()
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "worker.trainer"],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            env=trainer_environment(os.environ, threads),
            start_new_session=True,
        )
        os.close(theirs)
        super().__init__(ours)

    def wait(self, timeout_s: float | None = None) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._popen.wait(timeout_s)
        return None

    def signal(self, sig: signal.Signals) -> None:
        if self._popen.poll() is None:
            send(self._popen.pid, sig)


# -- forked -----------------------------------------------------------------------------------------------------------


class ForkedTrainer(TrainerProcess):
    """One that a ForkServer forks, as soon as that has imported torch."""

    def __init__(self, stdin: int, server: ForkServer) -> None:
        super().__init__(stdin)
        self._server = server
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
        if self._killed_at is not None and time.monotonic() - self._killed_at > DEAF_S:
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
    """`python -m worker.forkserver` and a thread that hears of its trainers. It lives as long as `alive`; when it dies,
    its trainers are ended, as nobody would hear of their end."""

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
        self._asked: deque[ForkedTrainer] = deque()
        self._running: dict[int, ForkedTrainer] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._hear, name="forkserver", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def fork(self) -> ForkedTrainer:
        """A new trainer; one that has ended already where the server has died."""
        theirs, ours = os.pipe()
        trainer = ForkedTrainer(ours, self)
        with self._lock:
            if self.alive:
                self._asked.append(trainer)
                with suppress(OSError):  # it has just died, and `_hear` will end the trainer
                    socket.send_fds(self._channel, [b"fork"], [theirs])
            else:
                trainer.end(self._popen.wait())
        os.close(theirs)
        return trainer

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

    def _begin(self, trainer: ForkedTrainer, pid: int) -> None:
        if pid == NOBODY:
            return trainer.end(EXIT_CRASHED)
        self._running[pid] = trainer
        return trainer.begin(pid)

    def _bury(self) -> None:
        with self._lock:
            self.alive = False
            self._channel.close()
        self._popen.kill()  # should it be alive, but out of reach
        code = self._popen.wait()
        for trainer in self._running.values():
            trainer.signal(signal.SIGKILL)
            trainer.end(-signal.SIGKILL)
        for trainer in self._asked:
            trainer.end(code)
