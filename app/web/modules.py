"""What a page's scripts import, so that a browser asks for all of it at once and not level by level."""

from __future__ import annotations

import re
from functools import cache

from app.settings import ROOT

SCRIPTS = ROOT / "static" / "js"
IMPORT = re.compile(r'^(?:import|export)\b[^;]*?"\./([\w-]+\.js)"', re.MULTILINE)


@cache
def imported(*names: str) -> list[str]:
    """The modules behind these, which are not among them, each once: "axes.js", "chart.js"..."""
    found: dict[str, None] = dict.fromkeys(names)
    waiting = list(names)
    while waiting:
        for name in IMPORT.findall((SCRIPTS / waiting.pop()).read_text(encoding="utf-8")):
            if name not in found:
                found[name] = None
                waiting.append(name)
    return [name for name in found if name not in names]
