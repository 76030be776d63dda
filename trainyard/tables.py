"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def new_table(*columns: str, right: Collection[str] = (), whole: Collection[str] = ()) -> Table:
    """Without lines; `right` are aligned so, `whole` are never broken."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column in whole, justify="right" if column in right else "left")
    return table


def worker_table(workers: Sequence[dict[str, Any]]) -> Table:
    columns = ("Name", "State", "Busy", "Devices", "Runs", "Note")
    table = new_table(*columns, right=("Busy",), whole=("Name", "State"))
    for worker in workers:
        state = Text(worker["state"], style="yellow" if worker["state"] == "draining" else "green")
        busy = f"{worker['busy']} of {worker['slots']}"
        texts = [", ".join(worker["devices"]), " ".join(worker["running"]), worker["note"]]
        table.add_row(Text(worker["name"]), state, busy, *(Text(text) for text in texts))
    return table
