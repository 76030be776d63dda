"""A process that has imported torch once, and forks from itself whom the worker asks for: a trainer, most of the time.

Each import of torch takes seconds of a core and some hundred megabytes. A fork takes a hundredth of a second, and
what it does not change it shares with the others. On Linux alone: elsewhere libraries do not outlive a fork, and each
child imports torch itself.

The worker's end is `worker.children.ForkServer`; between them go packets. `fork ROLE`, with the child's standard input
and, if it answers, output, is answered by `PID`, -1 where there can be none. When that ends, it is told as `PID CODE`
and stays a zombie until `reap PID`: so no signal that is meant for it can reach another process with its number. When
the worker is gone the socket ends, and so does this.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from worker import anatomist, pace, trainer
from worker.children import ANATOMIST, NOBODY, PACE, PACKET, TRAINER
from worker.trainer_exit import EXIT_CRASHED

ROLES: dict[str, Callable[[], int]] = {
    TRAINER: trainer.main,
    ANATOMIST: anatomist.main,
    PACE: pace.main,
}


def serve(channel: socket.socket) -> None:
    """Fork and tell of ends until the worker is gone."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: set[int] = set()
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            tell_ends(channel, running)
        if channel.fileno() in ready:
            packet, files, _, _ = socket.recv_fds(channel, PACKET, 2)
            if not packet:
                return
            word, whom = packet.decode().split()
            if word == "fork":
                pid = fork(whom, files, close=(channel.fileno(), woken, wake))
                running |= {pid} - {NOBODY}
                channel.send(b"%d" % pid)
            else:
                os.waitpid(int(whom), 0)


def tell_ends(channel: socket.socket, running: set[int]) -> None:
    for pid in sorted(running):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            running.discard(pid)
            code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            channel.send(b"%d %d" % (pid, code))


def fork(role: str, streams: Sequence[int], close: tuple[int, ...]) -> int:
    """The process id of a new child, or NOBODY where the system has no room for one: the others train on.

    SIGTERM waits until it is the child's own.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        pid = os.fork()
    except OSError:
        traceback.print_exc()
        pid = NOBODY
    if pid == 0:
        try:
            become(role, streams, close)
        except BaseException:  # noqa: BLE001  # nobody else may go on from here
            traceback.print_exc()
        finally:
            trainer.leave(EXIT_CRASHED)
    for stream in streams:
        os.close(stream)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return pid


def become(role: str, streams: Sequence[int], close: tuple[int, ...]) -> NoReturn:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    for standard, stream in enumerate(streams):  # input, then output
        os.dup2(stream, standard)
    for file in (*streams, *close):
        os.close(file)
    with suppress(OSError):
        Path("/proc/self/comm").write_text(role)
    trainer.leave(ROLES[role]())


def main() -> int:
    # Whoever stops all processes of a service means the trainers, which then save what they have: we stay until then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()  # so that no collection touches, and thereby copies, what all trainers share
    with suppress(ConnectionError):  # the worker is gone
        serve(channel)
    return 0


if __name__ == "__main__":
    trainer.leave(main())
