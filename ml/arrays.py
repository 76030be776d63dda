"""Pictures in arrays: `.npz` files, and the class's `mnist.npy`.

N pictures, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.npy import Numbers, UnreadableArrays, read_arrays
from ml.npz import list_arrays, read_npz
from ml.pictures import Index, Source, Uint8, UnusableSource, read_labels
from ml.registered import SIDES

# Training images, training labels, validation images, validation labels; capitals do not matter. The first that fit are
# taken: a set with both validation and test images keeps the former.
NAMED = (
    ("train_x", "train_y", "val_x", "val_y"),
    ("train_x", "train_y", "test_x", "test_y"),
    ("x_train", "y_train", "x_val", "y_val"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "val_images", "val_labels"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_x", "train_y"),
    ("x_train", "y_train"),
    ("train_images", "train_labels"),
    ("images", "labels"),
    ("data", "target"),
    ("x", "y"),
)


@dataclass(frozen=True)
class ArrayPictures:
    """`pixels` [N, C, H, W] of any type of numbers, which `factor` brings to 0..255."""

    pixels: Numbers
    labels: Index
    factor: int

    def take(self, index: Index) -> Uint8:
        part = self.pixels[index]
        if part.dtype == np.uint8 and self.factor == 1:
            return part
        return np.rint(part.astype(np.float64) * self.factor).astype(np.uint8)


def read_array_file(path: Path) -> Source:
    """The pictures in a `.npz` or `.npy` file.

    Raises:
        UnusableSource: it is damaged or holds other things; the message names the array.
        OSError: it cannot be opened.
    """
    try:
        kind, arrays = ("npz", _read_npz(path)) if path.suffix.lower() == ".npz" else ("npy", _read_npy(path))
    except UnreadableArrays as error:
        raise UnusableSource(str(error)) from error
    names = list(arrays)
    pixels = [_put_channels_first(arrays[name], name) for name in names[0::2]]
    labels = [read_labels(arrays[name], name) for name in names[1::2]]
    for i, name in enumerate(names[0::2]):
        if len(pixels[i]) != len(labels[i]):
            raise UnusableSource(
                f"{name} has {len(pixels[i]):,} images, {names[2 * i + 1]} {len(labels[i]):,} labels"
            )
    if len(pixels) > 1 and pixels[0].shape[1:] != pixels[1].shape[1:]:
        raise UnusableSource(
            f"{names[0]} and {names[2]} have images of different shapes, {list(pixels[0].shape[1:])} and "
            f"{list(pixels[1].shape[1:])}"
        )
    factor, notes = _find_factor(dict(zip(names[0::2], pixels, strict=True)))
    parts = [ArrayPictures(p, y, factor) for p, y in zip(pixels, labels, strict=True)]
    c, h, w = pixels[0].shape[1:]
    return Source(kind, (c, h, w), parts[0], parts[1] if len(parts) > 1 else None, notes=notes)


def _read_npz(path: Path) -> dict[str, Numbers]:
    """Training images and labels, then those for validation if there are any, under the names of the file."""
    there = {name.lower(): name for name in list_arrays(path)}
    wanted = next((names for names in NAMED if set(names) <= there.keys()), None)
    if wanted is None:
        raise UnusableSource(
            f"{path.name} holds {', '.join(there.values())[:200] or 'no array'}; name the arrays train_X, train_y, "
            f"test_X and test_y, or X and y alone"
        )
    found = read_npz(path, [there[name] for name in wanted])
    return {there[name]: found[there[name]] for name in wanted}


def _read_npy(path: Path) -> dict[str, Numbers]:
    """The class's file: an object array of train_X, test_X, train_y and test_y, or a dictionary with these names."""
    found = read_arrays(path)
    by_name = {name.lower(): name for name in found}
    wanted = next((names for names in NAMED if set(names) <= by_name.keys()), None)
    if wanted is not None:
        return {by_name[name]: found[by_name[name]] for name in wanted}
    parts = list(found.values())
    for order in ((0, 2, 1, 3), (0, 1, 2, 3)):  # train_X, test_X, train_y, test_y; or each with its labels
        if len(parts) == 4 and _are_pairs([parts[i] for i in order]):
            names = ("train_X", "train_y", "test_X", "test_y")
            return {name: parts[i] for name, i in zip(names, order, strict=True)}
    shapes = ", ".join(str(list(part.shape)) for part in parts[:8])
    raise UnusableSource(
        f"{path.name} holds arrays of shapes {shapes}; it should be train_X, test_X, train_y and test_y, in this order "
        f"or by these names"
    )


def _are_pairs(parts: list[Numbers]) -> bool:
    """Whether these are images, their labels, images, their labels."""
    images, labels = parts[0::2], parts[1::2]
    fit = all(
        x.ndim >= 2 and y.ndim in (1, 2) and len(x) == len(y) for x, y in zip(images, labels, strict=True)
    )
    return fit and all(
        x.ndim > y.ndim or x.shape[1:] > y.shape[1:] for x, y in zip(images, labels, strict=True)
    )


def _put_channels_first(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    """[N, C, H, W] of [N, H, W], [N, H, W, C], [N, C, H, W] or, for square grey images, [N, H * W].

    Raises: UnusableSource.
    """
    shape = pixels.shape
    if pixels.ndim == 2 and isqrt(shape[1]) ** 2 == shape[1]:
        pixels = pixels.reshape(len(pixels), 1, isqrt(shape[1]), isqrt(shape[1]))
    elif pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise UnusableSource(
            f"{name} has shape {list(shape)}; images are [N, H, W] or [N, H, W, C] with 1 or 3 channels, square grey "
            f"ones also [N, H * W]"
        )
    if not all(side in SIDES for side in pixels.shape[2:]):
        h, w = pixels.shape[2:]
        raise UnusableSource(
            f"{name} has images of {h}x{w}; sides may be {SIDES.start} to {SIDES.stop - 1} pixels"
        )
    return pixels


def _find_factor(parts: Mapping[str, NDArray[Any]]) -> tuple[int, tuple[str, ...]]:
    """What all pixels are multiplied by to be 0..255, and what to tell of it.

    Raises: UnusableSource, for pixels beyond that range or that are no numbers.
    """
    empty = [name for name, pixels in parts.items() if not pixels.size]
    if empty:
        raise UnusableSource(f"{empty[0]} holds no image")
    bounds = {name: (pixels.min(), pixels.max()) for name, pixels in parts.items()}
    for name, (low, high) in bounds.items():
        if not (low >= 0 and high <= 255):  # also when they are no numbers
            raise UnusableSource(
                f"{name} has pixels from {low:g} to {high:g}; they must be 0 to 255, or 0 to 1. Register the images as "
                f"they were before they were standardised"
            )
    if max(high for _, high in bounds.values()) > 1:
        if any(pixels.dtype.kind == "f" and not _is_whole(pixels) for pixels in parts.values()):
            return 1, ("pixels were rounded to whole numbers",)
        return 1, ()
    return 255, ("pixels from 0 to 1 were multiplied by 255 and rounded to whole numbers",)


def _is_whole(pixels: NDArray[Any]) -> bool:
    return all(
        np.array_equal(block, np.rint(block)) for block in np.array_split(pixels, 1 + len(pixels) // 4096)
    )
