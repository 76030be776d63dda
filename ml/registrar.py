"""Register a data set on this host: convert it once into arrays that are safe and quick to read. And remove one.

A data set appears under its name with all its files, by one rename, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from pydantic import ValidationError

from ml.arrays import read_array_file
from ml.datasets import BUILT_IN
from ml.pictures import Chosen, Index, Pictures, Source, UnusableSource, count_classes, draw_validation
from ml.registered import FOLDER, MANIFEST, SIDES, Manifest, check_name, read_manifest

BLOCK = 1_024  # images converted at once
MAX_BYTES = 16 * 1024**3  # of all images: a run holds them in memory
STALE_S = 24 * 3600.0

Progress = Callable[[int, int], None]  # images done, of so many


@dataclass(frozen=True)
class Wanted:
    """What the operator said beside the name and the source.

    `val_fraction` and `seed` are for a set without a split of its own; `size` and `grey` for an image folder.
    """

    title: str = ""
    class_names: tuple[str, ...] = ()
    val_fraction: float = 0.2
    seed: int = 0
    size: int | None = None
    grey: bool = False


def add_dataset(
    root: Path, name: str, source: Path, wanted: Wanted, progress: Progress | None = None
) -> tuple[Manifest, tuple[str, ...]]:
    """Register `source` as `name` under the datasets folder `root`; its manifest, and notes on what was changed.

    Raises:
        UnusableSource: the name is taken or none, the source cannot be used, or there is no room.
        OSError: a file cannot be read or written. Nothing is left behind either way.
    """
    _check_wanted(root, name, wanted)
    found = _read_source(source, wanted)
    names = wanted.class_names or found.class_names
    classes = count_classes(found.train.labels, found.val.labels if found.val else None, names)
    train, val = _split(found, wanted)
    facts = {
        "name": name,
        "title": wanted.title or name,
        "shape": found.shape,
        "classes": classes,
        "class_names": tuple(names),
        "train_size": len(train.labels),
        "val_size": len(val.labels),
        "source": found.kind,
        "split": "own" if found.val else "drawn",
        "added_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    manifest = _store(root / FOLDER, name, facts, (train, val), progress)
    return manifest, found.notes


def _split(found: Source, wanted: Wanted) -> tuple[Pictures, Pictures]:
    """Training and validation pictures: the source's own, or drawn."""
    if found.val is not None:
        return found.train, found.val
    chosen, drawn = draw_validation(found.train.labels, wanted.val_fraction, wanted.seed)
    return Chosen(found.train, chosen), Chosen(found.train, drawn)


def remove_dataset(root: Path, name: str) -> None:
    """Forget a registered data set and delete its arrays, also a damaged one. Raises: UnusableSource; OSError."""
    folder = root / FOLDER
    try:
        check_name(name)
    except ValueError as error:
        raise UnusableSource(f"name: {error}") from None
    if not (folder / name).is_dir():
        there = ", ".join(sorted(path.name for path in folder.glob("[!.]*"))) if folder.is_dir() else ""
        raise UnusableSource(f"no data set {name!r} is registered here; there is {there or 'none'}")
    if (folder / name).is_symlink():
        (folder / name).unlink()
        return
    gone = Path(tempfile.mkdtemp(prefix=".removing-", dir=folder))
    os.rename(folder / name, gone / name)  # at once, whatever becomes of the files
    shutil.rmtree(gone)


def _check_wanted(root: Path, name: str, wanted: Wanted) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise UnusableSource(f"name: {error}") from None
    if name in BUILT_IN:
        raise UnusableSource(f"name: {name!r} is a built-in data set; choose another")
    if (root / FOLDER / name).exists() or (root / FOLDER / name).is_symlink():
        raise UnusableSource(
            f"name: {name!r} is registered already; choose another, or first `trainyard dataset remove {name}`"
        )
    if not 0 < wanted.val_fraction < 1:
        raise UnusableSource("--val-fraction: must be over 0 and under 1, such as 0.2")
    if not 0 <= wanted.seed < 2**32:
        raise UnusableSource(f"--seed: must be from 0 to {2**32 - 1}")
    if wanted.size is not None and wanted.size not in SIDES:
        raise UnusableSource(f"--size: must be from {SIDES.start} to {SIDES.stop - 1} pixels")


def _read_source(source: Path, wanted: Wanted) -> Source:
    if source.is_dir():
        from ml.imagefolder import read_folder  # torchvision, and torch with it, takes seconds

        return read_folder(source, wanted.size, wanted.grey)
    if not source.is_file():
        raise UnusableSource(f"{source} is not there; give an image folder, a .npz or a .npy file")
    if source.suffix.lower() not in (".npz", ".npy"):
        raise UnusableSource(f"{source.name} is neither a .npz nor a .npy file nor a folder of images")
    if wanted.size is not None or wanted.grey:
        raise UnusableSource("--size and --grey are for image folders; arrays are taken as they are")
    return read_array_file(source)


def _store(
    folder: Path,
    name: str,
    facts: dict[str, Any],
    parts: tuple[Pictures, Pictures],
    progress: Progress | None,
) -> Manifest:
    """Write everything into a folder beside, then give that its name."""
    c, h, w = facts["shape"]
    count = sum(len(part.labels) for part in parts)
    _check_manifest({**facts, "digest": "0" * 64})  # before an hour of converting
    _check_room(folder, count * (c * h * w + 2))
    with _beside(folder) as new:
        digest, done = hashlib.sha256(), 0
        for kind, pictures in zip(("train", "val"), parts, strict=True):
            for block in _write_images(new / f"{kind}_images.npy", pictures, (c, h, w)):
                digest.update(block.data)
                done += len(block)
                if progress is not None:
                    progress(done, count)
            _write_labels(new / f"{kind}_labels.npy", pictures.labels)
            digest.update(pictures.labels.astype("<i8").data)
        manifest = _check_manifest({**facts, "digest": digest.hexdigest()})
        (new / MANIFEST).write_text(
            json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
        )
        _publish(new, folder / name)
    return read_manifest(folder / name)


def _check_manifest(facts: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        flag = {"title": "--title", "class_names": "--class-names"}.get(
            str(first["loc"][0] if first["loc"] else ""), ""
        )
        place = flag or ".".join(str(part) for part in first["loc"])
        raise UnusableSource(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None


def _check_room(folder: Path, wanted_bytes: int) -> None:
    if wanted_bytes > MAX_BYTES:
        raise UnusableSource(
            f"that makes {wanted_bytes / 1e9:,.1f} GB of images, over {MAX_BYTES / 1e9:,.1f}: runs hold them in "
            f"memory; use fewer or smaller ones"
        )
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if wanted_bytes > free_bytes:
        raise UnusableSource(
            f"that makes {wanted_bytes / 1e6:,.0f} MB of images, and the disk of {folder} has {free_bytes / 1e6:,.0f} "
            f"MB left; free some space"
        )


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, which is deleted unless it was given another name; those of dead processes go too."""
    for left in (*folder.glob(".adding-*"), *folder.glob(".removing-*")):
        if time.time() - left.stat().st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=".adding-", dir=folder))
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_images(
    path: Path, pictures: Pictures, shape: tuple[int, int, int]
) -> Iterator[np.ndarray[Any, Any]]:
    """Write them, and yield the blocks as they are written."""
    count = len(pictures.labels)
    array = open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *shape))
    for start in range(0, count, BLOCK):
        block = np.ascontiguousarray(pictures.take(np.arange(start, min(start + BLOCK, count))))
        array[start : start + len(block)] = block
        yield block
    array.flush()


def _write_labels(path: Path, labels: Index) -> None:
    np.save(path, labels.astype(np.uint16), allow_pickle=False)


def _publish(new: Path, place: Path) -> None:
    """Give the folder its name, once all of it is on the disk, readable for whoever may read beside it."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (*new.iterdir(), new):
        os.chmod(path, (0o755 if path is new else 0o644) & ~mask)
        _sync(path)
    try:
        os.rename(new, place)
    except OSError as error:
        if place.exists():
            raise UnusableSource(f"name: {place.name!r} was registered by somebody else meanwhile") from error
        raise
    _sync(place.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
