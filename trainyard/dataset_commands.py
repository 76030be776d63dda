"""`trainyard dataset`: data sets of one's own, registered on this host and then chosen by name.

It goes to the folder of data sets, not to the server's address: each host that trains has its own, or shares one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from trainyard.become import become
from trainyard.operations import AsJson, DataDir, use_data_dir

Datasets = Annotated[
    Path | None,
    typer.Option(envvar="TRAINYARD_DATASETS", help="Where data sets lie.", show_default="DATA_DIR/datasets"),
]
Name = Annotated[
    str, typer.Argument(help="Small letters, digits and hyphens, such as flowers.", show_default=False)
]
dataset_app = typer.Typer(
    no_args_is_help=True, help="Data sets on this host: register your own, list, remove."
)


@dataset_app.command("add")
def add_dataset(
    name: Name,
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder with a folder of images a class, perhaps within train/ and val/; a .npz with train_X, "
            "train_y, test_X and test_y; or the class's mnist.npy.",
            show_default=False,
        ),
    ],
    title: Annotated[str, typer.Option(help="What pages call it.", show_default="the name")] = "",
    size: Annotated[
        int | None,
        typer.Option(
            min=4, max=512, help="Cut and scale images of a folder to so many pixels.", show_default="as is"
        ),
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Make images of a folder grey.")] = False,
    class_names: Annotated[
        str, typer.Option(help="Of classes 0, 1, ..., by commas.", show_default="folders, or numbers")
    ] = "",
    val_fraction: Annotated[
        float, typer.Option(help="Of each class, for validation, where the set has no split of its own.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Draws that split; the same everywhere.")] = 0,
    datasets: Datasets = None,
    data_dir: DataDir = None,
) -> NoReturn:
    """Register a data set: it is converted once, and chosen by name in the form, the API and here."""
    flags = [
        "--title",
        title,
        "--class-names",
        class_names,
        "--val-fraction",
        str(val_fraction),
        "--seed",
        str(seed),
    ]
    flags += [*(["--size", str(size)] if size is not None else []), *(["--grey"] if grey else [])]
    _manage(datasets, data_dir, "add", *flags, "--", name, str(source.expanduser().absolute()))


@dataset_app.command("list")
def list_datasets(as_json: AsJson = False, datasets: Datasets = None, data_dir: DataDir = None) -> NoReturn:
    """Show all data sets, and which of them are on this host."""
    _manage(datasets, data_dir, "list", *(["--json"] if as_json else []))


@dataset_app.command("remove")
def remove_dataset(name: Name, datasets: Datasets = None, data_dir: DataDir = None) -> NoReturn:
    """Forget a registered data set and delete its converted images; the source stays as it is."""
    _manage(datasets, data_dir, "remove", "--", name)


def _manage(datasets: Path | None, data_dir: Path | None, *arguments: str) -> NoReturn:
    use_data_dir(data_dir)
    if datasets is not None:
        os.environ["TRAINYARD_DATASETS"] = str(datasets.expanduser().resolve())
    become("worker.dataset_command", *arguments)
