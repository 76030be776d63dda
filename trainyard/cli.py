"""The command `trainyard`: start everything, submit runs, follow them, compare them.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 canceled or paused, 4 no server answers, 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from trainyard import operations, run_commands, worker_commands
from trainyard.become import become
from trainyard.dataset_commands import dataset_app
from trainyard.terminal import console, errors
from trainyard.token_commands import password_app, token_app

app = typer.Typer(
    name="trainyard",
    help="Launch training runs, watch every step live, compare models honestly.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
run_commands.register(app)
worker_commands.register(app)
app.add_typer(dataset_app, name="dataset")
app.add_typer(token_app, name="token")
app.add_typer(password_app, name="password")


def main() -> None:
    """The console script."""
    app()
