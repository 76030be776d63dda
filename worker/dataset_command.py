"""Register data sets on the host that trains: `python -m worker.dataset_command add flowers ./flowers --size 32`.

`trainyard dataset` runs the same. Exit codes: 0 done, 1 it could not be done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from app.settings import get_settings
from ml.catalog import DATASETS, Dataset
from ml.pictures import UnusableSource
from ml.registrar import Wanted, add_dataset, remove_dataset

console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    root = get_settings().datasets_dir
    DATASETS.look_in(root)
    try:
        asked.act(root, asked)
    except UnusableSource as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"trainyard: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("trainyard: interrupted; nothing was registered", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainyard dataset", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, act: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=act.__doc__)
        made.set_defaults(act=act)
        return made

    new = command("add", add)
    new.add_argument("name")
    new.add_argument("source", type=Path)
    new.add_argument("--title", default="")
    new.add_argument("--size", type=int)
    new.add_argument("--grey", action="store_true")
    new.add_argument("--class-names", default="")
    new.add_argument("--val-fraction", type=float, default=0.2)
    new.add_argument("--seed", type=int, default=0)
    listed = command("list", list_all)
    listed.add_argument("--json", action="store_true")
    command("remove", remove).add_argument("name")
    return parser


def add(root: Path, asked: argparse.Namespace) -> None:
    """Convert a folder of images, a .npz or a .npy file, and give it a name for specs."""
    names = tuple(part.strip() for part in asked.class_names.split(",")) if asked.class_names else ()
    wanted = Wanted(asked.title, names, asked.val_fraction, asked.seed, asked.size, asked.grey)
    home = get_settings().data_dir
    if root.is_relative_to(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # as `trainyard up` makes it, if this comes first
    with show_progress() as advance:
        manifest, notes = add_dataset(root, asked.name, asked.source, wanted, advance)
    drawn = "" if manifest.split == "own" else f", drawn by seed {asked.seed}"
    colours = "grey" if manifest.shape[0] == 1 else "RGB"
    say(
        f"Registered {manifest.name}: {manifest.train_size:,} training and {manifest.val_size:,} validation images"
        f"{drawn}, {manifest.shape[2]}x{manifest.shape[1]} {colours}, {manifest.classes} classes, "
        f"digest {manifest.digest[:16]}"
    )
    for note in notes:
        say(f"Note: {note}.")
    say(f"Train on it: trainyard submit --dataset {manifest.name}")


@contextmanager
def show_progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Converting", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def list_all(root: Path, asked: argparse.Namespace) -> None:
    """Show what this host can train on, and whether its files are here."""
    rows = [describe(data, root) for data in DATASETS.values()]
    damaged = DATASETS.damaged()
    if asked.json:
        print(json.dumps({"folder": str(root), "datasets": rows, "damaged": dict(damaged)}, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("Name", "Shape", "Classes", "Train", "Val", "Here", "Digest"):
        right = column in ("Classes", "Train", "Val")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        shape = "x".join(str(n) for n in reversed(row["shape"]))
        counts = [f"{row[name]:,}" for name in ("classes", "train_size", "val_size")]
        here = "yes" if row["available"] else f"no, {row['download_mb']} MB" if row["download_mb"] else "no"
        table.add_row(*(Text(text) for text in (row["name"], shape, *counts, here, row["digest"][:12])))
    console.print(table)
    for name, why in damaged.items():
        say(f"{name} cannot be used: {why}. Remove it with: trainyard dataset remove {name}")


def describe(data: Dataset, root: Path) -> dict[str, Any]:
    names = ("name", "title", "shape", "classes", "train_size", "val_size", "download_mb", "digest")
    registered = {"registered": data.is_registered, "available": data.on_disk(root)}
    return {name: getattr(data, name) for name in names} | registered


def remove(root: Path, asked: argparse.Namespace) -> None:
    """Forget a registered data set and delete its images. What was measured on it stays."""
    remove_dataset(root, asked.name)
    say(f"Removed {asked.name}. Its runs keep what they measured, but cannot go on or be started again.")


def say(text: str) -> None:
    console.print(Text(text), soft_wrap=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # half a data set is deleted on the way out
    sys.exit(main())
