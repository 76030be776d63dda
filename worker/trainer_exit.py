"""How a trainer ended, in plain words. Knows no torch: the supervisor reads it."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from pathlib import Path

TAIL_LINES = 60
EXIT_CRASHED = 1
EXIT_STALLED = 77
MAX_LINE = 300  # characters of a log's last line


def describe_exit(code: int, tail: str = "") -> str:
    """`-9` becomes words that say what probably happened; `tail` is its log's end, whose last line may say why."""
    if code == -signal.SIGKILL:
        return "the trainer was killed by signal 9, perhaps out of memory"
    if code < 0:
        return f"the trainer was ended by signal {-code} ({signal.Signals(-code).name})"
    if code == EXIT_STALLED:
        return "the trainer stood still for too long (TRAINYARD_STALL_S) and was ended"
    last = tail.rstrip().rpartition("\n")[2].strip()
    if re.match(r"[A-Za-z_.]+(Error|Exception)\b", last):
        return f"the trainer exited with code {code}: {last[:MAX_LINE]}"
    return f"the trainer exited with code {code}"


def read_tail(path: Path) -> str:
    """The last lines of a trainer's log; empty when there is none."""
    with suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-TAIL_LINES:])
    return ""
