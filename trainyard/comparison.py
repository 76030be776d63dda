"""A comparison in the terminal: the verdict, what the seeds show, and a row a run of what differs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

VERDICT_STYLE = {
    "identical": "green", "replicates": "green", "controlled": "green", "incomplete": "yellow", "confounded": "red",
}  # fmt: skip


def print_comparison(console: Console, found: dict[str, Any]) -> None:
    """`found` is the answer of GET /api/v1/compare."""
    verdict, statistics = found["verdict"], found["statistics"]
    console.print()
    _say(console, verdict["text"], f"bold {VERDICT_STYLE.get(verdict['kind'], '')}")
    for text in [*verdict["unknown_text"], *(note["text"] for note in verdict["notes"])]:
        _say(console, text)
    if len(found["runs"]) > 1 and statistics is not None:
        console.print()
        _say(console, f"{statistics['metric']}, {statistics['at']} value: {statistics['text']}", "bold")
        if len(statistics["pairs"]) > 1:
            for pair in statistics["pairs"]:
                _say(console, f"  {pair['text']}")
        for text in [*statistics["method"], *statistics["left_out_text"]]:
            _say(console, text, "dim")
    console.print()
    console.print(_differences(found))
    for matched in found["matched"]:
        changes = ", ".join(f"{key} {_text(change['to'])}" for key, change in matched["changes"].items())
        _say(console, f"To compare alike, run {matched['run']} again with {changes}.")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _differences(found: dict[str, Any]) -> Table:
    """A row a run; a dash where a run has no such field."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("Id", "Name", "State"):
        table.add_column(column, no_wrap=column == "Id")
    for field in found["differences"]:
        table.add_column(Text(field["field"]))
    for run in found["runs"]:
        values = [field["values"].get(run["id"], "–") for field in found["differences"]]
        table.add_row(*(Text(_text(value)) for value in (run["id"], run["name"], run["state"], *values)))
    return table


def _text(value: Any) -> str:
    match value:
        case None:
            return "all"  # a size that is not limited: the only field of a spec that may be empty
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
    return str(value)
