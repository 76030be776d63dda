"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def worker_table(workers: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("Name", "State", "Busy", "Devices", "Runs", "Note"):
        table.add_column(
            column, no_wrap=column in ("Name", "State"), justify="right" if column == "Busy" else "left"
        )
    for worker in workers:
        state = Text(worker["state"], style="yellow" if worker["state"] == "draining" else "green")
        busy = f"{worker['busy']} of {worker['slots']}"
        texts = [", ".join(worker["devices"]), " ".join(worker["running"]), worker["note"]]
        table.add_row(Text(worker["name"]), state, busy, *(Text(text) for text in texts))
    return table
