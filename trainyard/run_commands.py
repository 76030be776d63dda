"""`trainyard submit`, `preflight`, `watch`, `runs`, `cancel` and `compare`: what a server does with runs."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ml.spec import RunSpec
from trainyard.client import Client
from trainyard.comparison import print_comparison
from trainyard.flags import read_spec, with_spec_flags
from trainyard.needs import print_preflight
from trainyard.progress import STATE_STYLE, exit_code, follow, numbers
from trainyard.records import Run
from trainyard.tables import new_table
from trainyard.terminal import AsJson, Runs, Token, Url, connected, console, errors, print_json

File = Annotated[
    str | None, typer.Option("--file", "-f", help="A spec as JSON; - is standard input. Flags go first.")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="The model's own: activation=relu.", metavar="NAME=VALUE"),
]


Recipe = Annotated[
    bool,
    typer.Option(
        "--recipe", help="Begin with what learns well with this model on this data; flags change it."
    ),
]


class Value(StrEnum):
    LAST = "last"
    BEST = "best"


def register(app: typer.Typer) -> None:
    app.command()(submit)
    app.command()(preflight)
    app.command()(watch)
    app.command("runs")(list_runs)
    app.command()(cancel)
    app.command()(compare)


@with_spec_flags
def submit(
    file: File = None,
    option: ModelOption = None,
    recipe: Recipe = False,
    name: Annotated[str | None, typer.Option(help="A name for people.", show_default="from the spec")] = None,
    experiment: Annotated[str | None, typer.Option(help="The set of runs it belongs to.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be given again.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run until it ends.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    **fields: Any,
) -> None:
    """Submit a run and print its id and address."""
    spec = read_spec(file, fields, option or [], sys.stdin.read, whole=not recipe)
    with connected(url, token) as client:
        if recipe:
            spec = _on_recipe(client, spec)
        run = client.submit(spec, name=name, experiment=experiment, tags=tag or ())
        address = f"{client.url}{run.url}"
        if as_json and not watch:
            print_json(_plain(run, client))
        elif not as_json:
            console.print(Text(f"{run.id}  {address}"), soft_wrap=True)
        if watch:
            _watch(client, [run.id], as_json)


def _on_recipe(client: Client, spec: dict[str, Any]) -> dict[str, Any]:
    """The recipe's fields with what was given on top."""
    usual = {name: RunSpec.model_fields[name].default for name in ("model", "dataset")}
    chosen = {name: spec.get(name, value) for name, value in usual.items()}
    fields = client.recipe(**chosen)
    options = {**fields.get("model_options", {}), **spec.get("model_options", {})}
    return {**chosen, **fields, **spec, "model_options": options}


@with_spec_flags
def preflight(
    file: File = None,
    option: ModelOption = None,
    recipe: Recipe = False,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
    **fields: Any,
) -> None:
    """Tell what a run would need, and start nothing. Exit code: 0 it can run there, 1 it cannot."""
    spec = read_spec(file, fields, option or [], sys.stdin.read, whole=not recipe)
    with connected(url, token) as client:
        if recipe:
            spec = _on_recipe(client, spec)
        found = client.preflight(spec)
    if as_json:
        print_json(found)
    else:
        print_preflight(console, found)
    raise typer.Exit(0 if found["fits"] else 1)


def watch(runs: Runs, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Follow runs live until each has ended. Exit code: 0 finished, 1 failed, 3 canceled or paused."""
    with connected(url, token) as client:
        for run in runs:
            client.get(run)  # an unknown id is told before the stream opens
        _watch(client, runs, as_json)


def list_runs(
    state: Annotated[
        list[str] | None, typer.Option("--state", help="In this state; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Of this model; may be repeated.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
    query: Annotated[
        str,
        typer.Option(
            "--query", "-q", help="Such as 'lr > 0.01 AND val/accuracy >= 98%'; ? on a page explains it."
        ),
    ] = "",
    sort: Annotated[
        str, typer.Option(help="By this field, such as lr or -val/accuracy (falling).")
    ] = "-created",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 20,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """List runs, the newest first."""
    with connected(url, token) as client:
        found = list(
            client.runs(
                state=state, model=model, experiment=experiment, q=query or None, sort=sort, limit=limit
            )
        )
        if as_json:
            print_json([_plain(run, client) for run in found])
        elif found:
            console.print(_table(found))
        else:
            console.print("No runs. Submit one with: trainyard submit --model lenet --dataset digits")


def cancel(runs: Runs, url: Url = None, token: Token = None) -> None:
    """Stop runs for good; one that trains stops at its next report."""
    with connected(url, token) as client:
        for run_id in runs:
            run = client.cancel(run_id)
            console.print(
                Text(f"{run.id}  {'stopping' if run.state == 'running' else run.state}"), soft_wrap=True
            )


def compare(
    runs: Runs,
    metric: Annotated[
        str | None, typer.Option(help="What to compare.", show_default="the validation accuracy")
    ] = None,
    at: Annotated[Value, typer.Option(help="The metric's last or best value.")] = Value.LAST,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", help="What is compared, such as lr; may be repeated.", show_default="the model"
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The run that the others are compared with.", show_default="each with each"),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Say whether a comparison is fair, what differs and what the seeds show; the page's address comes first."""
    with connected(url, token) as client:
        found = client.compare(runs, metric=metric, at=at.value, group=group or (), baseline=baseline)
        address = client.compare_url(runs)
        if as_json:
            print_json({"url": address, **found})
        else:
            console.print(Text(address), soft_wrap=True)
            print_comparison(console, found)


def _watch(client: Client, runs: list[str], as_json: bool) -> None:
    ended = follow(client, runs, errors if as_json else console)
    if as_json:
        print_json([_plain(run, client) for run in ended])
    raise typer.Exit(exit_code(ended))


def _plain(run: Run, client: Client) -> dict[str, Any]:
    """The run as JSON can carry it, with the whole address of its page."""
    row: dict[str, Any] = json.loads(run.model_dump_json())  # by text: NaN becomes its name there
    return row | {"url": f"{client.url}{run.url}"}


def _table(runs: list[Run]) -> Table:
    columns = ("Id", "Name", "Model", "Dataset", "State", "Progress", "Now")
    table = new_table(*columns, right=("Progress",), whole=("Id", "State"))
    for run in runs:
        progress = "" if run.progress is None else f"{100 * run.progress:.0f}%"
        state = Text(run.state, style=STATE_STYLE[run.state])
        cells = [Text(text) for text in (run.id, run.name, run.model or "", run.dataset or "")]
        table.add_row(*cells, state, progress, Text(numbers(run)))
    return table
