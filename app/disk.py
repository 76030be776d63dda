"""Room on the disk that holds the data directory: how much there is, and which errors say that there is none."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

# A quota and a limit on file sizes (ulimit -f) end a write as a full disk does.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
MB = 1_000_000


def describe_shortage(folder: Path, min_free_mb: int, wanted_bytes: int = 0) -> str | None:
    """Why nothing should be written there: `wanted_bytes` would leave less than `min_free_mb`. None when it may be.

    What cannot be asked is no shortage: the write itself will tell.
    """
    if min_free_mb == 0:
        return None
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        return None
    if free_bytes - wanted_bytes >= min_free_mb * MB:
        return None
    left, kept = f"{free_bytes // MB:,}", f"{min_free_mb:,}"
    return (
        f"its disk has {left} MB left, and {kept} MB must stay free (TRAINYARD_MIN_FREE_MB); free some space"
    )


def describe_error(error: OSError) -> str:
    """Why a file could not be written and what to do, without its path."""
    cause = error.strerror or type(error).__name__
    if error.errno in FULL:
        return f"disk full ({cause}); free some space"
    return f"its disk does not take it ({cause}); see to that"
