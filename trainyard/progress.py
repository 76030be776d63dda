"""Runs as progress bars that move with the live stream, or as plain lines where there is no terminal."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from trainyard.client import Client
from trainyard.errors import TrainyardError
from trainyard.records import Run

STATE_STYLE = {
    "queued": "dim",
    "running": "cyan",
    "finished": "green",
    "failed": "red",
    "canceled": "yellow",
    "paused": "yellow",
}


def follow(
    client: Client, runs: Iterable[str], console: Console, stop: threading.Event | None = None
) -> list[Run]:
    """Show the runs until each has ended or is paused, or until `stop`; as they were then, in that order.

    Raises: TrainyardError when the server refuses or one of them was deleted.
    """
    seen: dict[str, Run | None] = dict.fromkeys(runs)
    with Bars(console) if console.is_terminal else Lines(console) as display:
        for event in client.events(list(seen), stop=stop):
            if event.kind == "gone":
                raise TrainyardError("not_found", f"run {event.run_id} was deleted", None, 404)
            if event.run is None:
                continue
            seen[event.run.id] = event.run
            display.show(event.run)
            if all(run is not None and at_rest(run) for run in seen.values()):
                break
    return [run for run in seen.values() if run is not None]


def exit_code(runs: Sequence[Run]) -> int:
    """0 when all are finished, 1 when one failed, otherwise 3: canceled or paused."""
    if any(run.state == "failed" for run in runs):
        return 1
    return 0 if all(run.state == "finished" for run in runs) else 3


def at_rest(run: Run) -> bool:
    return run.ended or run.state == "paused"


class Bars:
    """One bar a run, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=28), markup=False),
            TextColumn("[{task.fields[style]}]{task.fields[state]}", table_column=Column(min_width=8)),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[numbers]}", style="dim", table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, run: Run) -> None:
        fields: dict[str, Any] = {
            "state": run.state,
            "style": STATE_STYLE[run.state],
            "numbers": numbers(run),
        }
        if run.id not in self._tasks:
            self._tasks[run.id] = self._progress.add_task(run.name, total=1.0, **fields)
        self._progress.update(self._tasks[run.id], completed=run.progress or 0.0, **fields)


class Lines:
    """One line at each change of state and at each further tenth: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, run: Run) -> None:
        now = (run.state, math.floor((run.progress or 0.0) * 10))
        if self._said.get(run.id) != now:
            self._said[run.id] = now
            done = f"{100 * (run.progress or 0.0):.0f}%"
            parts = (run.id, run.name, run.state, done, numbers(run))
            self._console.print(Text("  ".join(part for part in parts if part)), soft_wrap=True)


def numbers(run: Run) -> str:
    """Loss, validation accuracy and what remains, where known; a failure's reason instead."""
    if run.state == "failed":
        return first_line(run.error or "")
    accuracy = run.last("val/accuracy")
    loss = run.summary.get("train/loss")
    parts = [
        f"loss {'not finite' if loss.last is None else f'{loss.last:.3f}'}" if loss is not None else "",
        f"val acc {100 * accuracy:.1f}%" if accuracy is not None else "",
        f"ETA {duration(run.eta_s)}" if run.eta_s is not None and run.state == "running" else "",
        run.phase if run.state == "running" and loss is None else "",
    ]
    return "  ".join(part for part in parts if part)


def first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else ""


def duration(seconds: float) -> str:
    """12 s, 3:05 min or 2:03 h."""
    whole = math.ceil(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
