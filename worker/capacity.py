"""What a slot of this worker has, as the web process must know it to say what fits: device, memory, threads, and what
its trainers can do. The worker never imports torch to ask."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ml.toolchain import find_toolchain
from worker.environment import trainer_environment
from worker.slots import Gpu

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
MIB = 1 << 20
GB = 10**9
BF16_FLAGS = {"avx512_bf16", "amx_tile"}  # those that ml.numerics.multiplies_bf16 asks torch for
BF16_CAPABILITY = 8.0


def describe_slot(gpus: Sequence[Gpu], threads: int) -> dict[str, Any]:
    """`memory` is that of the smallest GPU, or of the host where there is none. `bf16`: whether the hardware multiplies
    it, None where that is not known. `inductor_lacks` is empty where a model can be compiled."""
    if not gpus:
        return {
            "device": "cpu",
            "memory": count_host_memory(),
            "threads": threads,
            "bf16": multiplies_bf16(),
            "inductor_lacks": what_is_missing("cpu"),
        }
    sizes = read_sizes(gpus, query_gpus("memory.total"))
    return {
        "device": "cuda",
        "memory": min(sizes, default=count_host_memory()),  # a GPU that names none shares the host's
        "threads": threads,
        "bf16": read_bf16(gpus, query_gpus("compute_cap")),
        "inductor_lacks": what_is_missing("cuda"),
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


def multiplies_bf16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this processor does: elsewhere `precision: auto` is fp32."""
    try:
        found = re.search(r"^flags\s*:(.*)$", Path(cpuinfo).read_text(), re.MULTILINE)
    except OSError:  # not on Linux
        return False
    return found is not None and not BF16_FLAGS.isdisjoint(found[1].split())


def what_is_missing(device: str, headers: str | None = None) -> str:
    """What torch.compile needs and a trainer would not find; else empty."""
    tools = find_toolchain(device, trainer_environment(os.environ, 1))
    if headers is not None:
        tools = tools._replace(headers=Path(headers))
    if not tools.has_compiler:
        return f"a {tools.language} compiler ({tools.compiler})"
    return "" if tools.has_headers else f"Python.h in {tools.headers}"


def query_gpus(field: str) -> dict[str, str]:
    """A field of each GPU by its UUID, by `nvidia-smi`; empty for one that an older driver does not know."""
    asked = ["nvidia-smi", f"--query-gpu=uuid,{field}", "--format=csv,noheader,nounits"]
    listed = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    rows = (line.partition(",") for line in listed.stdout.splitlines() if line.startswith("GPU-"))
    return {uuid: value.strip() for uuid, _, value in rows}


def read_sizes(gpus: Iterable[Gpu], total_mib: dict[str, str]) -> list[int]:
    """Bytes of each, as far as they are known. A slice has what its name says, in whole gigabytes."""
    sizes = []
    for gpu in gpus:
        if gpu.slice_gb is not None:
            sizes.append(gpu.slice_gb * GB)
        elif (size := total_mib.get(gpu.uuid, "")).isdigit():
            sizes.append(int(size) * MIB)
    return sizes


def read_bf16(gpus: Iterable[Gpu], capability: dict[str, str]) -> bool | None:
    """Whether all of them multiply it (compute capability 8.0 and above); None where one does not say."""
    try:
        return all(float(capability[gpu.uuid]) >= BF16_CAPABILITY for gpu in gpus)
    except (KeyError, ValueError):
        return None
