"""The data sets: whether they are here and whole, and whether every host that trains has the same ones."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from app.db import Database
from app.doctor.finding import Finding, ok, problem, warning
from app.errors import TrainyardError
from app.settings import Settings
from app.workers import list_present
from ml.catalog import DATASETS, Dataset
from ml.registered import ARRAYS, FOLDER

NAME = "data sets"


def check_datasets(settings: Settings) -> Iterator[Finding]:
    root = settings.datasets_dir
    DATASETS.look_in(root)
    for data in DATASETS.values():
        if data.is_registered:
            yield _judge_registered(data, root)
        elif not data.on_disk(root):
            remedy = f"a first run downloads {data.download_mb} MB to {root}; without internet, put its files there"
            yield warning(NAME, f"{data.title} is not here", remedy)
        elif damage := next(filter(None, map(describe_damage, _files(data, root))), None):
            yield problem(
                NAME, f"{data.title}: {damage}", "delete that file; the next run downloads it again"
            )
        else:
            yield ok(NAME, f"{data.title} ({data.train_size:,} + {data.val_size:,} images)")
    for name, why in DATASETS.damaged().items():
        yield problem(NAME, f"{name}: {why}", f"trainyard dataset remove {name}, then add it again")
    yield from _compare_hosts(settings)


def _judge_registered(data: Dataset, root: Path) -> Finding:
    remedy = (
        f"trainyard dataset remove {data.name}, then add it again, or copy {root / FOLDER / data.name} anew"
    )
    if not data.on_disk(root):
        return warning(NAME, f"{data.name} is registered, but its files are not here", remedy)
    try:
        found = digest_arrays(root / FOLDER / data.name)
    except (OSError, ValueError) as error:
        return problem(NAME, f"{data.name} cannot be read: {error}", remedy)
    if found != data.digest:
        return problem(NAME, f"{data.name} is not what was registered: its digest is {found[:16]}", remedy)
    return ok(NAME, f"{data.name} ({data.train_size:,} + {data.val_size:,} images, registered, {found[:16]})")


def digest_arrays(folder: Path) -> str:
    """The digest that the manifest of this registered data set should have. Raises: OSError, ValueError."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="r")
        digest.update((array.astype("<i8") if name.endswith("labels") else np.ascontiguousarray(array)).data)
    return digest.hexdigest()


def _compare_hosts(settings: Settings) -> Iterator[Finding]:
    """What one host has registered and another has not, or has with other content, by what their workers say."""
    db = Database(settings.database_url)
    try:
        with db.read() as s:
            hosts = {worker.host: worker.datasets for worker in list_present(s)}
    except TrainyardError:
        return  # the line on the database says why
    finally:
        db.dispose()
    ours = {data.name: data.digest for data in DATASETS.values() if data.is_registered}
    for name in sorted({name for datasets in hosts.values() for name in datasets} | set(ours)):
        digests = {datasets[name] for datasets in hosts.values() if name in datasets}
        missing = sorted(host for host, datasets in hosts.items() if name not in datasets)
        if hosts and missing:
            remedy = (
                f"register it there, or copy DATASETS/{FOLDER}/{name} there; its runs fail there until then"
            )
            yield problem(NAME, f"{name} is missing on {', '.join(missing)}", remedy)
        if name not in ours:
            remedy = (
                f"copy DATASETS/{FOLDER}/{name}/manifest.json here; until then no run can be started with it"
            )
            yield problem(NAME, f"{name} is registered on other hosts, but not here", remedy)
        if len(digests | ({ours[name]} if name in ours else set())) > 1:
            remedy = "copy the folder of one host to the others; runs on different content cannot be compared"
            yield problem(NAME, f"{name} is not the same on all hosts", remedy)


def _files(data: Dataset, root: Path) -> list[Path]:
    """Of each file's alternatives the one that is there."""
    return [next(path for name in names if (path := root / name).is_file()) for names in data.files]


def describe_damage(path: Path) -> str | None:
    """What is wrong with an IDX file (its head names the sizes: LeCun's page on MNIST); None for what is sound."""
    if "-ubyte" not in path.name:
        return None
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            head = file.read(4)
            sizes = [int.from_bytes(file.read(4), "big") for _ in range(head[3])] if len(head) == 4 else []
            wanted = 1
            for size in sizes:
                wanted *= size
            length = sum(len(piece) for piece in iter(lambda: file.read(1_000_000), b""))
    except (OSError, EOFError) as error:
        return f"{path} cannot be read: {error}"
    if head[:3] != b"\0\0\x08" or not sizes:
        return f"{path} is no IDX file"
    return None if length == wanted else f"{path} holds {length:,} bytes and should hold {wanted:,}"
