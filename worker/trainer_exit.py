"""How a trainer ended, in plain words. Knows no torch: the supervisor reads it."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

TAIL_LINES = 60


def describe_exit(code: int) -> str:
    """`-9` becomes words that say what probably happened."""
    if code == -signal.SIGKILL:
        return "the trainer was killed (signal 9; out of memory?)"
    if code < 0:
        return f"the trainer was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"the trainer exited with code {code}"


def read_tail(path: Path) -> str:
    """The last lines of a trainer's log; empty when there is none."""
    with suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-TAIL_LINES:])
    return ""
