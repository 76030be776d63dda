"""Data sets as resident uint8 tensors: read once, indexed per step.

N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pkgutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import KMNIST, MNIST, FashionMNIST

from ml.cifar import read_cifar10
from ml.datasets import DATASETS, Dataset
from ml.download import DatasetUnavailable, Progress, ensure_files
from ml.registered import FOLDER
from ml.spec import RunSpec

__all__ = ["VAL_SEED", "DatasetUnavailable", "Split", "draw_subset", "load_dataset", "split_for", "subset"]

VAL_SEED = 0  # the validation images are the same for every run, whatever its seed


@dataclass(frozen=True)
class Split:
    """A data set's training and validation images, in memory.

    images: [N, C, H, W] uint8; labels: [N] int64. `digest` is the first 16 hex digits of the SHA-256 of all
    four tensors' bytes as they are on disk, `val_digest` those of the two validation tensors. `mean` and `std` have one
    number a channel, over the full training set in 0..1. `val_from`: what the validation images are of, as in a spec.
    """

    name: str
    classes: int
    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    digest: str
    val_digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_from: str = "test"

    @property
    def shape(self) -> tuple[int, int, int]:
        c, h, w = self.train_images.shape[1:]
        return c, h, w


def load_dataset(name: str, root: Path, progress: Progress | None = None) -> Split:
    """The whole data set, downloaded into `root` first if it is not there.

    `progress` is called with what goes on and the fraction done; it may raise, which ends the download
    cleanly.

    Raises:
        DatasetUnavailable: it cannot be had, or is not registered here; the message says what to do.
    """
    entry = DATASETS.get(name)
    if entry is None:
        why = DATASETS.damaged().get(name, f"{root / FOLDER} has none of that name")
        raise DatasetUnavailable(
            f"The data set {name!r} is not registered on this host ({why}). Register it here with `trainyard dataset "
            f"add`, or copy its folder from a host that has it, then start the run again."
        )
    split: Split = pkgutil.resolve_name(entry.load)(entry, root, progress)
    return split


def split_for(spec: RunSpec, data: Split) -> Split:
    """The data set as the spec trains on it: where it is validated on training images, these are taken out of them.

    They are drawn by a fixed seed: the same for every run that holds out as many, and fewer are among more. The rest
    keeps its order and its normalisation, and the test images are left out.
    """
    if spec.val_from == data.val_from:
        return data
    held_out = draw_subset(len(data.train_images), spec.sizes.val, VAL_SEED)
    assert held_out is not None, "a spec leaves images to train on"
    kept = torch.ones(len(data.train_images), dtype=torch.bool)
    kept[held_out] = False
    val_images, val_labels = data.train_images[held_out], data.train_labels[held_out]
    return replace(
        data,
        train_images=data.train_images[kept],
        train_labels=data.train_labels[kept],
        val_images=val_images,
        val_labels=val_labels,
        val_digest=_digest([val_images, val_labels]),
        val_from=spec.val_from,
    )


def load_digits(entry: Dataset, root: Path, progress: Progress | None = None) -> Split:
    """scikit-learn's 8x8 digits (UCI ML, Alpaydin and Kaynak 1998), enlarged bilinearly to 28x28.

    The split into 1,437 and 360 is a fixed draw, the same for everyone.
    """
    table = torch.from_numpy(np.loadtxt(find_digits(), delimiter=","))  # [1797, 64 pixels and a label]
    small, labels = table[:, :-1].float().view(-1, 1, 8, 8), table[:, -1].long()  # pixels 0..16
    images = F.interpolate(small * (255 / 16), size=(28, 28), mode="bilinear", align_corners=False)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, targets = images.round().to(torch.uint8)[order], labels[order]
    n = entry.train_size
    return _split(entry, images[:n], targets[:n], images[n:], targets[n:])


def find_digits() -> Path:
    """The file that `sklearn.datasets.load_digits` reads. To import scikit-learn for it takes a second of CPU, in which
    a small network is trained half."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None, "scikit-learn is installed with us"
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def load_mnist(entry: Dataset, root: Path, progress: Progress | None = None) -> Split:
    """MNIST (LeCun, Cortes, Burges 1998) as torchvision reads it; the test images are the validation set."""
    return _load_idx(entry, MNIST, root, progress)


def load_fashion_mnist(entry: Dataset, root: Path, progress: Progress | None = None) -> Split:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) as torchvision reads it; test images for validation."""
    return _load_idx(entry, FashionMNIST, root, progress)


def load_kmnist(entry: Dataset, root: Path, progress: Progress | None = None) -> Split:
    """KMNIST (Clanuwat et al. 2018) as torchvision reads it; the test images are the validation set."""
    return _load_idx(entry, KMNIST, root, progress)


def load_cifar10(entry: Dataset, root: Path, progress: Progress | None = None) -> Split:
    """CIFAR-10 (Krizhevsky 2009) as torchvision reads it; the test images are the validation set."""
    parts = read_cifar10(entry, root, progress)
    return _split(entry, *parts)


def load_registered(entry: Dataset, root: Path, progress: Progress | None = None) -> Split:
    """The arrays of a registered data set, held against its manifest: shapes, labels, every byte by its digest."""
    folder = root / FOLDER / entry.name
    parts: list[Tensor] = []
    try:
        for kind, count in (("train", entry.train_size), ("val", entry.val_size)):
            parts.append(_read_array(folder / f"{kind}_images.npy", np.uint8, (count, *entry.shape)))
            parts.append(_read_array(folder / f"{kind}_labels.npy", np.uint16, (count,)).long())
    except (OSError, ValueError) as error:
        raise _broken(entry, folder, str(error)) from error
    if max(int(parts[1].max()), int(parts[3].max())) >= entry.classes:
        raise _broken(entry, folder, f"labels outside 0..{entry.classes - 1}")
    split = _split(entry, *parts)
    if not entry.digest.startswith(split.digest):
        raise _broken(entry, folder, "their digest is not the one that was registered")
    return split


def _read_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> Tensor:
    """A copy in memory. Raises: OSError, ValueError."""
    # Mapped first: a header that promises more than the file holds allocates nothing.
    found = open_memmap(path, mode="r")
    if (found.dtype, found.shape) != (np.dtype(dtype), shape):
        raise ValueError(f"{path.name} has type {found.dtype} and shape {found.shape}, not {shape}")
    return torch.from_numpy(np.array(found))


def _broken(entry: Dataset, folder: Path, found: str) -> DatasetUnavailable:
    return DatasetUnavailable(
        f"The files of {entry.title} in {folder} are damaged ({found}). Remove it with `trainyard dataset remove "
        f"{entry.name}` and register it again with `trainyard dataset add`, then start the run again."
    )


def subset(images: Tensor, labels: Tensor, size: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """`size` images and their labels, drawn without replacement by `seed` alone; all of them for None.

    Raises:
        ValueError: fewer than `size` are there.
    """
    chosen = draw_subset(len(images), size, seed)
    return (images, labels) if chosen is None else (images[chosen], labels[chosen])


def draw_subset(count: int, size: int | None, seed: int) -> Tensor | None:
    """Which `size` of `count` images `seed` draws, [size] int64; None for all of them, in their own order.

    Raises:
        ValueError: fewer than `size` are there.
    """
    if size is None or size == count:
        return None
    if size > count:
        raise ValueError(f"{size} images are asked for, but the files hold {count}")
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:size]


def _load_idx(entry: Dataset, kind: type[MNIST], root: Path, progress: Progress | None) -> Split:
    ensure_files(kind, root, entry.title, entry.download_mb, progress)
    parts: list[Tensor] = []
    for train in (True, False):
        try:
            read = kind(root, train=train)
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _damaged(entry.title, root / kind.__name__, str(error)) from error
        images, labels = read.data.unsqueeze(1), read.targets  # [N, H, W] -> [N, 1, H, W]
        if len(images) == 0 or len(images) != len(labels) or images.shape[1:] != entry.shape:
            found = f"images {list(images.shape)}, labels {list(labels.shape)}"
            raise _damaged(entry.title, root / kind.__name__, found)
        if not 0 <= int(labels.min()) <= int(labels.max()) < entry.classes:
            raise _damaged(entry.title, root / kind.__name__, f"labels outside 0..{entry.classes - 1}")
        parts += [images, labels]
    return _split(entry, *parts)


def _damaged(title: str, folder: Path, found: str) -> DatasetUnavailable:
    return DatasetUnavailable(
        f"The files of {title} in {folder} are damaged ({found}). Delete them and start the run again, which "
        f"downloads them anew, or choose the dataset digits."
    )


def _split(
    entry: Dataset, train_images: Tensor, train_labels: Tensor, val_images: Tensor, val_labels: Tensor
) -> Split:
    parts = [t.contiguous() for t in (train_images, train_labels, val_images, val_labels)]
    digest, val_digest = _digest(parts), _digest(parts[2:])
    moments = [_moments(parts[0][:, c]) for c in range(parts[0].shape[1])]
    mean, std = zip(*moments, strict=True)
    return Split(
        entry.name,
        entry.classes,
        train_images=parts[0],
        train_labels=parts[1],
        val_images=parts[2],
        val_labels=parts[3],
        digest=digest,
        val_digest=val_digest,
        mean=mean,
        std=std,
    )


def _digest(parts: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.numpy().data)
    return digest.hexdigest()[:16]


def _moments(pixels: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels taken as 0..1, exactly, from their histogram."""
    weight = torch.bincount(pixels.flatten(), minlength=256).double() / pixels.numel()
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = (weight * level).sum()
    std = (weight * (level - mean) ** 2).sum().sqrt()
    return float(mean), float(std) or 1.0  # pictures of one grey alone are left where they are
