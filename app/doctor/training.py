"""What trains: Python and its packages, the GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.doctor.finding import Finding, ok, problem, warning
from app.settings import ROOT, Settings

TORCH_S = 120.0
ASK_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": names}))
"""


def check_python(_settings: Settings) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield warning("user", "this is root; a trainer needs no such rights", "run it as a user of its own")
    yield ok("python", f"{sys.version.split()[0]}, Trainyard {metadata.version('trainyard')}")


def check_packages(_settings: Settings) -> Iterator[Finding]:
    installed: dict[str, str] = {
        canonicalize_name(dist.metadata["Name"]): dist.version for dist in metadata.distributions()
    }
    for text in metadata.requires("torchvision") or ():
        needed = Requirement(text)
        if needed.name == "torch" and not needed.specifier.contains(installed["torch"], prereleases=True):
            yield problem(
                "packages",
                f"torchvision {installed['torchvision']} needs torch{needed.specifier}, not {installed['torch']}",
                "pip install -c constraints.txt torch torchvision",
            )
    pinned = ROOT / "constraints.txt"
    if not pinned.exists():
        yield ok("packages", f"{len(installed)} installed; without a checkout nothing says which versions")
        return
    wanted = [
        Requirement(line) for line in pinned.read_text().splitlines() if line and not line.startswith("#")
    ]
    others = [
        f"{need.name} {installed[name]}"
        for need in wanted
        if (name := canonicalize_name(need.name)) in installed
        and not need.specifier.contains(installed[name])
    ]
    if others:
        found = f"{len(others)} are not those that were tested: {', '.join(others[:5])}"
        yield warning(
            "packages", found + (" ..." if len(others) > 5 else ""), "pip install -c constraints.txt -e ."
        )
    else:
        yield ok("packages", "all as tested (constraints.txt)")


def check_gpu(_settings: Settings) -> Iterator[Finding]:
    """Torch is asked in a process of its own: it is heavy, and nothing here needs it."""
    cards = _list_cards()
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=TORCH_S, check=True
        )
        told = json.loads(asked.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        remedy = "pip install -c constraints.txt --force-reinstall torch torchvision"
        yield problem("torch", f"cannot be loaded: {' '.join(said)}", remedy)
        return
    yield ok("torch", f"{told['version']}" + (f", CUDA {told['cuda']}" if told["cuda"] else ", without CUDA"))
    if told["gpus"]:
        yield ok("gpu", ", ".join(told["gpus"]))
    elif cards:
        remedy = (
            "update the NVIDIA driver to one for that CUDA; in a container, give it the GPUs (--gpus all)"
        )
        yield problem("gpu", f"nvidia-smi lists {', '.join(cards)}, but torch sees none", remedy)
    else:
        yield ok("gpu", f"none; trains on the CPU, {len(os.sched_getaffinity(0))} cores")


def _list_cards() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (subprocess.SubprocessError, OSError):
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [line.partition(":")[2].partition(" (")[0].strip() for line in lines]
