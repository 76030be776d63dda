"""One command that is another one: `trainyard web` becomes `python -m app`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def become(module: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals and exit codes are the module's own."""
    from trainyard.children import ROOT

    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606  a fixed command
