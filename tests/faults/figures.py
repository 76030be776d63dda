"""How long each fault cost, measured by its test and printed as a table when the session ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from app.models import RUNNING
from tests.faults.yard import Yard

PROPERTY = "recovery"
BACK, POINT = "running again", "first new point"


@dataclass
class Figures:
    """The stopwatch of one test. `strike()` just before the fault, then `recovered()`; `note()` for anything else."""

    fault: str
    item: pytest.Item
    struck_at: float = field(default=0.0)

    def strike(self) -> None:
        """The fault comes now."""
        self.struck_at = time.time()

    def recovered(self, yard: Yard, run_id: str, attempt: int = 2) -> None:
        """Wait until the attempt has claimed the run and its first point can be read; note both times since the fault.

        The first is the claim's own time in the event log, the second when a reader of the database saw the point.
        """
        yard.wait(
            run_id, lambda run: run.attempt >= attempt and run.state == RUNNING, f"attempt {attempt}", 120
        )
        claim = next(event for event in yard.claims(run_id) if event.attempt == attempt)
        self.note(yard.backend, BACK, claim.at - self.struck_at)

        resumed = yard.run(run_id).checkpoint
        after = resumed["step"] if resumed else 0
        yard.wait(
            run_id,
            lambda run: run.attempt > attempt or run.step > after or run.state != RUNNING,
            "a new point",
        )
        self.note(yard.backend, POINT, time.time() - self.struck_at)

    def note(self, backend: str, what: str, seconds: float) -> None:
        """Travels with the test's report, so that pytest-xdist's workers can tell theirs."""
        self.item.user_properties.append((PROPERTY, [self.fault, backend, what, round(seconds, 3)]))

    def since(self, backend: str, what: str) -> float:
        """Seconds since the fault, noted."""
        seconds = time.time() - self.struck_at
        self.note(backend, what, seconds)
        return seconds


def print_table(terminalreporter: pytest.TerminalReporter) -> None:
    """One line a fault and database: recovery times, and whatever else the test noted."""
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", ()):
            if name == PROPERTY and report.when == "call":
                fault, backend, what, seconds = value
                rows.setdefault((fault, backend), {}).setdefault(what, []).append(seconds)
    if not rows:
        return
    terminalreporter.section("recovery times, in seconds from the fault")
    terminalreporter.write_line(f"{'fault':<44} {'database':<9} {BACK:>14} {POINT:>16}  other")
    for (fault, backend), found in sorted(rows.items(), key=lambda row: (_number(row[0][0]), row[0])):
        back, point = (_span(found.pop(what, [])) for what in (BACK, POINT))
        other = ", ".join(f"{what} {_span(seconds)}" for what, seconds in found.items())
        terminalreporter.write_line(f"{fault:<44} {backend:<9} {back:>14} {point:>16}  {other}".rstrip())


def _number(fault: str) -> int:
    """Of F17, to sort by."""
    digits = fault.removeprefix("F").split(" ")[0].rstrip("abcdefgh")
    return int(digits) if digits.isdecimal() else 99


def _span(seconds: list[float]) -> str:
    """One time, or the least and the most of several."""
    if not seconds:
        return "-"
    low, high = min(seconds), max(seconds)
    return f"{low:.2f}" if len(seconds) == 1 else f"{low:.2f}..{high:.2f}"
