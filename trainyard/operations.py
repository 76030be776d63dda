"""`trainyard doctor`, `backup`, `restore` and `gc`: looking after the Trainyard of this machine.

They go to its data directory and database, not to its address: they work while it does not answer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from trainyard.become import become
from trainyard.checkup import show_checkup

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="TRAINYARD_DATA_DIR", help="As of `trainyard up`.", show_default="~/.trainyard"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def register(app: typer.Typer) -> None:
    app.command()(doctor)
    app.command()(backup)
    app.command()(restore)
    app.command()(gc)


def doctor(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Check everything that Trainyard needs, and say what to do. Exit code: 0 all is well, 1 there is a problem."""
    use_data_dir(data_dir)
    raise typer.Exit(show_checkup(as_json))


def backup(
    file: Annotated[
        Path, typer.Argument(help="A new file, .tar or .tar.gz; or a folder.", show_default=False)
    ],
    without_finished: Annotated[
        bool, typer.Option("--without-finished", help="Leave out the weights of finished runs.")
    ] = False,
    data_dir: DataDir = None,
) -> NoReturn:
    """Write database, checkpoints, logs and images to one file, while everything runs. For SQLite."""
    use_data_dir(data_dir)
    become(
        "app.backup", str(file.expanduser().absolute()), *(["--without-finished"] if without_finished else [])
    )


def restore(
    file: Annotated[Path, typer.Argument(help="What `trainyard backup` wrote.", show_default=False)],
    data_dir: Annotated[
        Path,
        typer.Option("--data-dir", help="A directory that is empty or not there yet.", show_default=False),
    ],
) -> NoReturn:
    """Make a data directory of a backup; `trainyard up` goes on there, unfinished runs from their checkpoints."""
    become("app.restore", str(file.expanduser().absolute()), str(data_dir.expanduser().resolve()))


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete it; without, only tell.")] = False,
    checkpoints_older_than: Annotated[
        str, typer.Option(help="Of runs that ended so long ago, all checkpoints but the last.")
    ] = "7d",
    weights_older_than: Annotated[
        str, typer.Option(help="The last one, too: such runs cannot go on, nor their weights be downloaded.")
    ] = "never",
    logs_older_than: Annotated[str, typer.Option(help="Logs of their attempts.")] = "90d",
    predictions_older_than: Annotated[
        str, typer.Option(help="Predictions of their evaluations, but of the best and the last.")
    ] = "30d",
    logits_older_than: Annotated[
        str, typer.Option(help="Logits of their best and their last evaluation.")
    ] = "90d",
    runs_older_than: Annotated[str, typer.Option(help="Whole runs, with all that they measured.")] = "never",
    state: Annotated[
        str | None,
        typer.Option(help="Of --runs-older-than only these, such as failed,canceled.", show_default=False),
    ] = None,
    vacuum: Annotated[
        bool,
        typer.Option("--vacuum", help="Rewrite the SQLite file: it gets smaller; writers wait meanwhile."),
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> NoReturn:
    """Free space. Runs that are queued, running or paused are never touched. Times: 12h, 90d, 2w or never."""
    use_data_dir(data_dir)
    times = {
        "--checkpoints-older-than": checkpoints_older_than,
        "--weights-older-than": weights_older_than,
        "--logs-older-than": logs_older_than,
        "--predictions-older-than": predictions_older_than,
        "--logits-older-than": logits_older_than,
        "--runs-older-than": runs_older_than,
    }
    flags = [name for name, given in (("--yes", yes), ("--vacuum", vacuum), ("--json", as_json)) if given]
    given = [part for pair in times.items() for part in pair]
    become("app.gc", *flags, *given, *(["--state", state] if state else []))


def use_data_dir(data_dir: Path | None) -> None:
    """Let the processes that this one starts or becomes work there."""
    if data_dir is not None:
        os.environ["TRAINYARD_DATA_DIR"] = str(data_dir.expanduser().resolve())
