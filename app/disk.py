"""Room on the disk that holds the data directory: how much there is, and which errors say that there is none."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

# A quota and a limit on file sizes (ulimit -f) end a write as a full disk does, and are mended by the same.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
MB = 1_000_000


def describe_shortage(folder: Path, min_free_mb: int, wanted_bytes: int = 0) -> str | None:
    """What there is, when writing `wanted_bytes` would leave less than `min_free_mb` free; None when it would not.

    What cannot be asked is no shortage: the write itself will tell.
    """
    if min_free_mb == 0:
        return None
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    if free - wanted_bytes >= min_free_mb * MB:
        return None
    return (
        f"its disk has {free // MB:,} MB left, and {min_free_mb:,} MB must stay free (TRAINYARD_MIN_FREE_MB)"
    )


def describe_error(error: OSError) -> str:
    """Why a file could not be written, for a person: without its path."""
    if error.errno in FULL:
        return f"the disk is full ({error.strerror})"
    return f"the disk does not take it ({error.strerror or type(error).__name__})"
