"""What Inductor builds with. Knows no torch, so that a worker can say what its trainers will find."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Toolchain(NamedTuple):
    """A compiler by its name or path, of a language, and the folder that Python's headers would be in."""

    language: str
    compiler: str
    headers: Path

    @property
    def has_compiler(self) -> bool:
        return shutil.which(self.compiler) is not None

    @property
    def has_headers(self) -> bool:
        return (self.headers / "Python.h").exists()


def find_toolchain(device: str, env: Mapping[str, str]) -> Toolchain:
    """That for C++ kernels on a cpu; on cuda that for Triton's launcher of kernels, in C.

    The names are looked for as torch/_inductor/config.py (`cpp.cxx`) and triton/runtime/build.py do.
    """
    headers = Path(sysconfig.get_paths()["include"])
    if device == "cpu":
        return Toolchain("C++", env.get("CXX", "g++"), headers)
    return Toolchain("C", env.get("CC") or next(filter(shutil.which, ("gcc", "clang")), "gcc"), headers)
