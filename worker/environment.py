"""What a trainer finds in its environment: what torch, CUDA and a download need, and nothing else of the worker's.

A worker is started from shells, units and compose files that hold tokens and passwords of other things. A trainer runs
more code than anything here, so it gets none of them; the database's address is the one secret that it needs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

NAMES = frozenset(
    {
        "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "TZ", "USER",
        "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "XDG_CACHE_HOME", "TERM",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FAKETIME", "CC", "CXX",
    }
)  # fmt: skip
PREFIXES = (
    "LC_", "PYTHON", "CUDA", "NVIDIA_", "CUBLAS_", "CUDNN_", "NCCL_", "TORCH", "PYTORCH_", "TRITON_", "OMP_", "GOMP_",
    "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "ATEN_", "ONEDNN_", "DNNL_", "MALLOC_", "HIP_", "ROCR_", "HSA_",
    "FAKETIME_", "COVERAGE_", "TRAINYARD_",
)  # fmt: skip
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|BROKER_URL|(^|_)KEY", re.IGNORECASE)


def trainer_environment(of: Mapping[str, str], threads: int) -> dict[str, str]:
    """A trainer's part of the environment `of` a worker, with its number of threads."""
    env = {name: value for name, value in of.items() if is_needed(name)}
    env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    env |= {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # a pool of forks hangs after OpenMP has run
    env |= {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID"
    }  # GPU 0 is nvidia-smi's, by which the worker counts and names them
    return env | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # the one with which cuBLAS repeats its bits


def is_needed(name: str) -> bool:
    upper = name.upper()  # http_proxy is written in both ways
    return (upper in NAMES or upper.startswith(PREFIXES)) and not SECRET.search(upper)


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
