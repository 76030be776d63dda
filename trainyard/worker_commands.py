"""`trainyard workers` and `drain`: who is there to train."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.text import Text

from trainyard.tables import worker_table
from trainyard.terminal import AsJson, Token, Url, connected, console, print_json

DRAIN_POLL_S = 1.0


def register(app: typer.Typer) -> None:
    app.command("workers")(list_workers)
    app.command()(drain)


def list_workers(as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """List the workers that are there, and what they do."""
    with connected(url, token) as client:
        found = client.workers()
    if as_json:
        print_json(found)
    elif found:
        console.print(worker_table(found))
    else:
        console.print("No worker is here. Start one with: trainyard worker")


def drain(
    name: Annotated[str, typer.Argument(help="As `trainyard workers` shows it.", show_default=False)],
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for its runs: they go on elsewhere, from a checkpoint.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the worker is gone.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Let a worker end: it takes no more runs, and stops once those it has are over."""
    with connected(url, token) as client:
        asked = client.drain(name, now=now)
        _tell_drain(name, asked, now)
        while wait and any(worker["name"] == name for worker in client.workers()):
            time.sleep(DRAIN_POLL_S)


def _tell_drain(name: str, asked: dict[str, Any], now: bool) -> None:
    left = len(asked["running"])
    rest = "they are given back" if now else f"it ends when {'it is' if left == 1 else 'they are'} over"
    text = (
        f"{name}  draining; {left} {'run' if left == 1 else 'runs'}, {rest}" if left else f"{name}  draining"
    )
    console.print(Text(text), soft_wrap=True)
