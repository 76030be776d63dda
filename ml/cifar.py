"""CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images") by torchvision's own code.

Its batches are pickles, so torchvision compares the MD5 of each with the published one before it opens it; the archive
that they come in is compared as well.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from ml.datasets import Dataset
from ml.download import DatasetUnavailable, Progress, SourceFailed, read_blocks, write_whole


def read_cifar10(
    entry: Dataset, root: Path, progress: Progress | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [N, 3, 32, 32] uint8 and labels [N] int64, and those of the test set; downloaded if missing.

    Raises:
        DatasetUnavailable: they cannot be had, or are damaged.
    """
    ensure_batches(entry, root, progress)
    parts: list[Tensor] = []
    for train in (True, False):
        try:
            read = CIFAR10(root, train=train)
        except RuntimeError as error:
            raise DatasetUnavailable(
                f"The files of {entry.title} in {root / CIFAR10.base_folder} are damaged ({error}). Delete them and "
                f"start the run again, which reads them anew, or choose the dataset digits."
            ) from error
        parts += [torch.from_numpy(read.data).permute(0, 3, 1, 2), torch.tensor(read.targets)]
    images, labels, val_images, val_labels = parts
    return images, labels, val_images, val_labels


def ensure_batches(entry: Dataset, root: Path, progress: Progress | None) -> None:
    """Make every batch exist under `root`, out of the archive there or a downloaded one; each whole or not at all.

    Raises:
        DatasetUnavailable: the folder cannot be written, or nobody gives the right archive.
    """
    folder = root / CIFAR10.base_folder
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list] + [CIFAR10.meta["filename"]]
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return
    with _archive(entry, root, progress) as path:
        try:
            folder.mkdir(exist_ok=True)
            with tarfile.open(path, "r:gz") as archive:
                for name in missing:
                    packed = archive.extractfile(f"{CIFAR10.base_folder}/{name}")
                    assert packed is not None  # the published archive has them as plain files
                    write_whole(folder / name, packed.read())
        except OSError as error:
            raise _unavailable(entry, root, f"could not be unpacked ({error})") from error


@contextmanager
def _archive(entry: Dataset, root: Path, progress: Progress | None) -> Iterator[Path]:
    """The published archive: the one in `root`, or a downloaded one that is gone afterwards."""
    given = root / CIFAR10.filename
    if given.is_file():
        with given.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != CIFAR10.tgz_md5:
            raise DatasetUnavailable(
                f"{given} is damaged or another file (its MD5 is {found}, not {CIFAR10.tgz_md5}). Delete it and start "
                f"the run again, which downloads it anew."
            )
        yield given
        return
    with _temporary(entry, root) as file:
        digest, done_bytes = hashlib.md5(usedforsecurity=False), 0
        try:
            for block in read_blocks(CIFAR10.url):
                file.write(block)
                digest.update(block)
                done_bytes += len(block)
                if progress is not None:
                    progress(f"Downloading {entry.title}", min(done_bytes / (entry.download_mb * 1e6), 1.0))
            file.flush()
        except SourceFailed as error:
            raise _unavailable(entry, root, f"could not be downloaded ({error})") from error
        if digest.hexdigest() != CIFAR10.tgz_md5:
            raise _unavailable(entry, root, "was downloaded with other content (its MD5 differs)")
        yield Path(file.name)


def _temporary(entry: Dataset, root: Path) -> IO[bytes]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return tempfile.NamedTemporaryFile(dir=root, prefix=f".{CIFAR10.filename}.")
    except OSError as error:
        why = f"is not there, and nothing can be written there ({error.strerror})"
        raise _unavailable(entry, root, why) from error


def _unavailable(entry: Dataset, root: Path, why: str) -> DatasetUnavailable:
    return DatasetUnavailable(
        f"{entry.title} comes in {CIFAR10.filename}, which {why}. Put that file, as its authors publish it, in {root}, "
        f"or set TRAINYARD_DATASETS to a folder that has {CIFAR10.base_folder}, or choose the dataset digits, which "
        f"needs no network."
    )
