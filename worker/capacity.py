"""What a slot of this worker has, as the web process must know it to say what fits: device, memory, threads."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
MIB = 1 << 20


def describe_slot(gpus: int, threads: int) -> dict[str, Any]:
    """`memory` is that of the smallest GPU, or of the host where there is none."""
    sizes = list_gpu_memory() if gpus else []
    return {
        "device": "cuda" if sizes else "cpu",
        "memory": min(sizes) if sizes else count_host_memory(),
        "threads": threads,
    }


def count_host_memory(limits: Iterable[str] = LIMITS) -> int:
    """Bytes that processes here may have: the machine's, or less where a container is given less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in limits:
        try:
            sizes.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # there is none, or it says `max`
            continue
    return min(size for size in sizes if size > 0)


def list_gpu_memory() -> list[int]:
    """Bytes of each GPU, by `nvidia-smi`."""
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    listed = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return [int(line) * MIB for line in listed.stdout.split() if line.isdigit()]
