"""Keeps a command from outliving whoever started it.

    python leash.py GRACE_S COMMAND...

The starter holds the other end of standard input and never writes to it. When that end closes, for whatever
reason (SIGKILL of the starter included), the command gets SIGTERM, after `GRACE_S` seconds its whole process
group SIGKILL. SIGTERM to the leash is handed to the command; the exit code is the command's. A pipe is used
and not PR_SET_PDEATHSIG, because that fires when the starting *thread* ends, and exists on Linux alone.

Only the standard library, so that it can be run as a file without site-packages and stays small.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def main() -> int:
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127

    def hand_on(signum: int, _frame: FrameType | None) -> None:
        child.send_signal(signum)

    signal.signal(signal.SIGTERM, hand_on)
    orphaned = threading.Event()
    threading.Thread(target=_end_with_starter, args=(child, grace_s, orphaned), daemon=True).start()
    code = child.wait()
    if orphaned.is_set():
        os.killpg(0, signal.SIGKILL)  # what the command left in its group; nobody else is there to end it
    return code if code >= 0 else 128 - code


def _end_with_starter(child: subprocess.Popen[bytes], grace_s: float, orphaned: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    orphaned.set()
    child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
