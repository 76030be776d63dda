"""The command `trainyard`: start everything, submit runs, follow them, compare them.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 canceled or paused, 4 no server answers, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainyard import operations
from trainyard.become import become
from trainyard.client import Client
from trainyard.comparison import print_comparison
from trainyard.dataset_commands import dataset_app
from trainyard.errors import NotReachable, TrainyardError
from trainyard.flags import flag, read_spec, with_spec_flags
from trainyard.progress import STATE_STYLE, exit_code, follow, numbers
from trainyard.records import Run
from trainyard.tables import worker_table
from trainyard.token_commands import password_app, token_app

CLI_RETRY_S = 1.0  # a person waits for the answer
DRAIN_POLL_S = 1.0
FAILED, USAGE, NOT_REACHABLE, INTERRUPTED = 1, 2, 4, 130
USAGE_STATUS = (400, 401, 403, 404, 422)  # the request was wrong; the server is well


class Value(StrEnum):
    LAST = "last"
    BEST = "best"


app = typer.Typer(
    name="trainyard",
    help="Launch training runs, watch every step live, compare models honestly.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

Runs = Annotated[list[str], typer.Argument(help="Ids of runs.", show_default=False, metavar="RUN...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="TRAINYARD_URL", help="Address of the server.", show_default="http://127.0.0.1:8000"
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="TRAINYARD_TOKEN", help="The server's token, if it has one.", show_default=False
    ),
]
Slots = Annotated[
    int | None,
    typer.Option(
        "--slots", min=1, max=64, envvar="TRAINYARD_SLOTS", show_default="one a GPU; without, two",
        help="Runs that train at the same time.",
    ),
]  # fmt: skip


@app.command()
def up(
    host: Annotated[str, typer.Option(envvar="TRAINYARD_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(envvar="TRAINYARD_PORT", min=0, max=65_535, help="Port to listen on; 0: a free one."),
    ] = 8000,
    data_dir: Annotated[
        Path,
        typer.Option(envvar="TRAINYARD_DATA_DIR", help="Database, logs, checkpoints; made for you alone."),
    ] = Path("~/.trainyard"),
    datasets: Annotated[
        Path | None,
        typer.Option(
            envvar="TRAINYARD_DATASETS", help="Where data sets lie.", show_default="DATA_DIR/datasets"
        ),
    ] = None,
    slots: Slots = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Train LeNet, AlexNet and ResNet-8 side by side.")
    ] = False,
) -> None:
    """Start everything on this machine: web pages, worker, Redis and one SQLite file. Ctrl-C stops it all.

    Further environment:

    TRAINYARD_TOKEN: a token for everything, beside those of `trainyard token create`. To listen beyond this machine
    there must be one or the other. Default: none.

    TRAINYARD_DATABASE_URL: a Postgres, as postgresql://user:password@host/name. Default: SQLite in the data
    directory.

    TRAINYARD_BROKER_URL: a Redis that runs already. Default: one of its own on a private socket.
    """
    from trainyard.launcher import Options, run

    options = Options(host, port, data_dir.expanduser().resolve(), datasets, slots, demo)
    raise typer.Exit(run(options, console, errors))


@app.command()
def web() -> NoReturn:
    """Run one web process, as TRAINYARD_* says; for compose files and several machines."""
    become("app")


@app.command()
def worker(slots: Slots = None) -> NoReturn:
    """Run one worker on this machine, as TRAINYARD_* says; it takes runs from the queue."""
    become("worker", *(["--slots", str(slots)] if slots is not None else []))


@app.command()
def migrate() -> NoReturn:
    """Bring the database at TRAINYARD_DATABASE_URL to the newest schema."""
    become("app.migrate")


operations.register(app)
app.add_typer(dataset_app, name="dataset")
app.add_typer(token_app, name="token")
app.add_typer(password_app, name="password")


@app.command()
@with_spec_flags
def submit(
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="A spec as JSON; - is standard input. Flags go first."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="The model's own: activation=relu.", metavar="NAME=VALUE"),
    ] = None,
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
    spec = read_spec(file, fields, option or [], sys.stdin.read)
    with _connected(url, token) as client:
        run = client.submit(spec, name=name, experiment=experiment, tags=tag or ())
        address = f"{client.url}{run.url}"
        if as_json and not watch:
            _print_json(_plain(run, client))
        elif not as_json:
            console.print(Text(f"{run.id}  {address}"), soft_wrap=True)
        if watch:
            _watch(client, [run.id], as_json)


@app.command()
def watch(runs: Runs, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Follow runs live until each has ended. Exit code: 0 finished, 1 failed, 3 canceled or paused."""
    with _connected(url, token) as client:
        for run in runs:
            client.get(run)  # an unknown id is told before the stream opens
        _watch(client, runs, as_json)


@app.command("runs")
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
    with _connected(url, token) as client:
        found = list(
            client.runs(
                state=state, model=model, experiment=experiment, q=query or None, sort=sort, limit=limit
            )
        )
        if as_json:
            _print_json([_plain(run, client) for run in found])
        elif found:
            console.print(_table(found))
        else:
            console.print("No runs. Submit one with: trainyard submit --model lenet --dataset digits")


@app.command()
def cancel(runs: Runs, url: Url = None, token: Token = None) -> None:
    """Stop runs for good; one that trains stops at its next report."""
    with _connected(url, token) as client:
        for run_id in runs:
            run = client.cancel(run_id)
            console.print(
                Text(f"{run.id}  {'stopping' if run.state == 'running' else run.state}"), soft_wrap=True
            )


@app.command("workers")
def list_workers(as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """List the workers that are there, and what they do."""
    with _connected(url, token) as client:
        found = client.workers()
    if as_json:
        _print_json(found)
    elif found:
        console.print(worker_table(found))
    else:
        console.print("No worker is here. Start one with: trainyard worker")


@app.command()
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
    with _connected(url, token) as client:
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


@app.command()
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
    with _connected(url, token) as client:
        found = client.compare(runs, metric=metric, at=at.value, group=group or (), baseline=baseline)
        address = client.compare_url(runs)
        if as_json:
            _print_json({"url": address, **found})
        else:
            console.print(Text(address), soft_wrap=True)
            print_comparison(console, found)


def main() -> None:
    """The console script."""
    app()


@contextmanager
def _connected(url: str | None, token: str | None) -> Iterator[Client]:
    """A client whose errors end the command with a message and the right exit code."""
    try:
        with Client(url, token, retry_s=CLI_RETRY_S) as client:
            yield client
    except ValueError as error:
        raise typer.BadParameter(f"--url: {error}") from None
    except NotReachable as error:
        hint = "Start it with `trainyard up`; for one elsewhere give --url or TRAINYARD_URL."
        _fail(NOT_REACHABLE, error.message, hint)
    except TrainyardError as error:
        field = f"{_flag_of(error.field)}: " if error.field else ""
        hint = (
            "Give the server's token with --token or TRAINYARD_TOKEN." if error.status in (401, 403) else ""
        )
        _fail(USAGE if error.status in USAGE_STATUS else FAILED, f"{field}{error.message}", hint)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, "Interrupted; runs on the server go on.")


def _flag_of(field: str) -> str:
    """The flag that a field of the request comes from: `spec.lr` is --lr."""
    first, *inner = field.removeprefix("spec.").split(".")
    return " ".join([flag(first), *inner])


def _fail(code: int, message: str, hint: str = "") -> NoReturn:
    errors.print(Text(f"Error: {message}", style="red"), soft_wrap=True)
    if hint:
        errors.print(Text(hint), soft_wrap=True)
    raise typer.Exit(code)


def _watch(client: Client, runs: list[str], as_json: bool) -> None:
    ended = follow(client, runs, errors if as_json else console)
    if as_json:
        _print_json([_plain(run, client) for run in ended])
    raise typer.Exit(exit_code(ended))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _plain(run: Run, client: Client) -> dict[str, Any]:
    """The run as JSON can carry it, with the whole address of its page."""
    row: dict[str, Any] = json.loads(run.model_dump_json())  # by text: NaN becomes its name there
    return row | {"url": f"{client.url}{run.url}"}


def _table(runs: list[Run]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("Id", "Name", "Model", "Dataset", "State", "Progress", "Now"):
        table.add_column(
            column, no_wrap=column in ("Id", "State"), justify="right" if column == "Progress" else "left"
        )
    for run in runs:
        progress = "" if run.progress is None else f"{100 * run.progress:.0f}%"
        state = Text(run.state, style=STATE_STYLE[run.state])
        cells = [Text(text) for text in (run.id, run.name, run.model or "", run.dataset or "")]
        table.add_row(*cells, state, progress, Text(numbers(run)))
    return table
