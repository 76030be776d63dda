"""Pictures in a folder of folders, one a class, as torchvision's ImageFolder reads them.

    flowers/train/daisy/1.jpg ... flowers/val/rose/9.jpg     or, without a split:     flowers/daisy/1.jpg ...

Files are opened by the decoders of photographs alone, whatever their names say: Pillow knows formats that start
programs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from ml.pictures import Index, Source, Uint8, UnusableSource
from ml.registered import SIDES, check_text

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
GREY = frozenset({"1", "L", "LA", "La"})
DEEP = ("I", "F")  # modes that begin so have more than 8 bits a pixel
VALIDATION = ("val", "valid", "validation", "test")
MAX_PIXELS = 64_000_000  # of one file, decoded; each thread holds one
SHOWN = 5
THREADS = min(8, os.cpu_count() or 1)


class Folder(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, without the folders that systems and editors leave behind."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = sorted(
            entry.name
            for entry in os.scandir(directory)
            if entry.is_dir() and not entry.name.startswith((".", "__"))
        )
        if not names:
            raise FileNotFoundError(f"{directory} has no folders in it; make one a class, with its images")
        return names, {name: k for k, name in enumerate(names)}


class FolderPictures:
    """Files that are decoded as they are asked for, brought to [C, H, W]."""

    def __init__(self, paths: list[str], labels: Index, shape: tuple[int, int, int]) -> None:
        self._paths, self.labels, self._shape = paths, labels, shape

    def take(self, index: Index) -> Uint8:
        with _decoders() as pool:
            return np.stack(list(pool.map(self._read, index.tolist())))

    def _read(self, place: int) -> Uint8:
        c, h, w = self._shape
        path = self._paths[place]

        def decode(image: Image.Image) -> NDArray[np.uint8]:
            plain = ImageOps.exif_transpose(image).convert("L" if c == 1 else "RGB")
            if plain.size != (w, h):
                plain = ImageOps.fit(plain, (w, h), Image.Resampling.BILINEAR)
            return np.asarray(plain, np.uint8).reshape(h, w, c)

        return open_picture(path, decode).transpose(2, 0, 1)


@contextmanager
def _decoders() -> Iterator[ThreadPoolExecutor]:
    """Threads, as decoders let go of the interpreter's lock; Pillow's warnings, of odd metadata, are passed by."""
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore")
        yield pool


def open_picture(path: str, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the image. Raises: UnusableSource, naming the file, when it is damaged or too large."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnusableSource(f"it has {image.width:,} x {image.height:,} pixels, over {MAX_PIXELS:,}")
            if image.mode.startswith(DEEP):
                raise UnusableSource("it has more than 8 bits a pixel; convert it to 8")
            return use(image)
    except Exception as error:  # noqa: BLE001  # a damaged image raises nearly anything
        raise UnusableSource(f"{path} cannot be used: {error}") from None


def read_folder(root: Path, size: int | None, grey: bool) -> Source:
    """The pictures under `root`, with the split that they come in; `size`: cut and scaled to squares of so many pixels.

    Without `size` all must have one size. Grey where all files are, or if asked for; otherwise RGB.

    Raises:
        UnusableSource: no classes, an unreadable or odd file, sizes that differ; the message says what to do.
    """
    has_split = (root / "train").is_dir()
    train = _list_files(root / "train" if has_split else root)
    found = next((root / name for name in VALIDATION if has_split and (root / name).is_dir()), None)
    val = _list_files(found) if found is not None else None
    names = tuple(train.classes)
    for name in names:
        try:
            check_text(name)
        except ValueError as error:
            raise UnusableSource(f"the folder {name!r} cannot be a class: its name {error}") from None
    files = [train.samples] if val is None else [train.samples, _rename_labels(val, names)]
    sizes, all_grey = _look_at([path for part in files for path, _ in part])
    shape = (1 if grey or all_grey else 3, *_choose_size(sizes, size))
    parts = [
        FolderPictures([path for path, _ in part], np.array([k for _, k in part], np.int64), shape)
        for part in files
    ]
    notes = (f"images were cut and scaled to {size}x{size}",) if size and set(sizes) != {(size, size)} else ()
    return Source("image folder", shape, parts[0], parts[1] if len(parts) > 1 else None, names, notes)


def _list_files(folder: Path) -> Folder:
    try:
        return Folder(folder)
    except OSError as error:
        raise UnusableSource(
            f"{error}. Each class is a folder of {', '.join(IMG_EXTENSIONS)} files."
        ) from None


def _rename_labels(val: Folder, names: tuple[str, ...]) -> list[tuple[str, int]]:
    """Its files with the numbers that the training folder gave the classes: one may be missing here."""
    unknown = sorted(set(val.classes) - set(names))
    if unknown:
        raise UnusableSource(f"{val.root} has classes without training images: {', '.join(unknown[:SHOWN])}")
    return [(path, names.index(val.classes[k])) for path, k in val.samples]


def _look_at(paths: list[str]) -> tuple[dict[tuple[int, int], str], bool]:
    """The (width, height) that occur, each with a file that has it, and whether all are grey. Reads heads alone."""

    def head(path: str) -> tuple[tuple[int, int], bool] | str:
        try:
            return open_picture(path, lambda image: (_turned(image), image.mode in GREY))
        except UnusableSource as error:
            return str(error)

    with _decoders() as pool:
        heads = list(pool.map(head, paths))
    damaged = [found for found in heads if isinstance(found, str)]
    if damaged:
        more = f" (and {len(damaged) - SHOWN:,} more)" if len(damaged) > SHOWN else ""
        raise UnusableSource(f"{'; '.join(damaged[:SHOWN])}{more}. Repair or remove what cannot be read.")
    sizes: dict[tuple[int, int], str] = {}
    for path, found in zip(paths, heads, strict=True):
        sizes.setdefault(cast(tuple[int, int], found[0]), path)
    return sizes, all(found[1] for found in heads)


def _turned(image: Image.Image) -> tuple[int, int]:
    """Its (width, height) once a camera's note on how it was held is followed."""
    w, h = image.size
    return (h, w) if image.getexif().get(0x0112, 1) >= 5 else (w, h)


def _choose_size(sizes: dict[tuple[int, int], str], size: int | None) -> tuple[int, int]:
    """The (height, width) of all pictures."""
    if size is not None:
        return size, size
    if len(sizes) > 1:
        (w, h), (wide, high) = min(sizes), max(sizes)
        raise UnusableSource(
            f"the images have {len(sizes):,} sizes, from {w}x{h} ({sizes[w, h]}) to {wide}x{high} "
            f"({sizes[wide, high]}); give one with --size, such as --size 32: they are cut to squares and scaled"
        )
    w, h = next(iter(sizes))
    if w not in SIDES or h not in SIDES:
        raise UnusableSource(
            f"the images have {w}x{h} pixels, and sides may be {SIDES.start} to {SIDES.stop - 1}; give a size with "
            f"--size, such as --size 32: they are cut to squares and scaled"
        )
    return h, w
