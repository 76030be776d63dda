"""What a run would need, in the terminal: memory and time first, then a row a layer."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from trainyard.progress import duration
from trainyard.tables import new_table


def print_preflight(console: Console, found: dict[str, Any]) -> None:
    """`found` is the answer of POST /api/v1/preflight."""
    if found["problem"]:
        console.print(Text(f"Cannot run here: {found['problem']}", style="bold red"), soft_wrap=True)
    for line in _facts(found):
        console.print(Text(line), soft_wrap=True)
    if found["caution"]:
        console.print(Text(found["caution"], style="yellow"), soft_wrap=True)
    if found["layers"]:
        console.print()
        console.print(_layers(found["layers"]))


def _facts(found: dict[str, Any]) -> list[str]:
    facts, memory, time, slot = [], found["memory"], found["time"], found["slot"]
    if found["parameters"] is not None:
        learn = (
            "" if found["trainable"] == found["parameters"] else f", of which {found['trainable']:,} learn"
        )
        facts.append(f"{found['parameters']:,} parameters{learn}")
    if memory is not None:
        parts = ", ".join(
            f"{name} {decimal(memory[name])}" for name in ("model", "activations", "data", "process")
        )
        facts.append(f"about {decimal(memory['total'])} of memory: {parts}")
    if time["epoch_s"] is not None and not found["problem"]:
        source = (
            f"from {time['runs']} finished runs"
            if time["source"] == "runs"
            else "an estimate, within a factor of two or so"
        )
        facts.append(f"{_about(time['epoch_s'])} an epoch, {_about(time['run_s'])} in all ({source})")
    if slot is not None:
        facts.append(f"on {slot['worker']}, {slot['device']}")
    return facts


def _about(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def _layers(layers: list[dict[str, Any]]) -> Table:
    columns = ("Layer", "Kind", "Output", "Parameters")
    table = new_table(*columns, right=columns[2:], whole=columns)
    for layer in layers:
        shape = "x".join(str(size) for size in layer["shape"])
        table.add_row(
            Text(layer["name"]),
            Text(layer["kind"]),
            shape,
            f"{layer['parameters']:,}" if layer["parameters"] else "",
        )
    return table
