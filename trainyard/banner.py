"""What `trainyard up` says at the terminal: boxes where there is one, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trainyard.children import last_lines


def show_banner(console: Console, url: str, facts: Mapping[str, str]) -> None:
    """The address and what runs where."""
    if not console.is_terminal:
        say(console, f"Trainyard is running at {url}")
        for name, fact in facts.items():
            say(console, f"{name}: {fact}")
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("Open", Text(url, style=f"bold cyan link {url}"))
    for name, fact in facts.items():
        grid.add_row(name, Text(fact))
    grid.add_row("Stop", Text("Ctrl-C"))
    console.print(
        Panel(grid, title="[bold]Trainyard", title_align="left", border_style="cyan", padding=(1, 2))
    )


def say(console: Console, text: str) -> None:
    """One line, never wrapped, its brackets no markup."""
    console.print(Text(text), soft_wrap=True)


def show_log(console: Console, log: Path, count: int = 15) -> None:
    """The last lines of a child's log, under its name."""
    say(console, f"-- {log} --")
    for line in last_lines(log, count):
        console.print(Text(line, style="dim"), soft_wrap=True)
