"""Data sets of the operator's own: what is read, what is refused, and that nothing is ever half there."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from ml import npy, npz
from ml.catalog import DATASETS
from ml.data import DatasetUnavailable, load_dataset
from ml.pictures import UnusableSource, draw_validation
from ml.registered import FOLDER, Manifest, Registry
from ml.registrar import Wanted, add_dataset, remove_dataset
from ml.spec import RunSpec

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def _known_here_alone(tmp_path: Path) -> Iterator[None]:
    """What a test registers is not known to the next."""
    yield
    DATASETS.look_in(tmp_path / "nothing")


def digits(train: int = 60, val: int = 20, *shape: int) -> Arrays:
    """Random pictures under the names that our documentation gives, each class in both parts."""
    rng = np.random.default_rng(0)
    shape = shape or (12, 10)
    return {
        "train_X": rng.integers(0, 256, (train, *shape), np.uint8),
        "train_y": np.arange(train) % 5,
        "test_X": rng.integers(0, 256, (val, *shape), np.uint8),
        "test_y": np.arange(val) % 5,
    }


def save_npz(path: Path, arrays: Arrays) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def save_npy(path: Path, content: Any) -> Path:
    np.save(path, content, allow_pickle=True)
    return path


def objects(items: list[Any]) -> NDArray[Any]:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def register(root: Path, source: Path, name: str = "mine", **wanted: Any) -> Manifest:
    manifest, _notes = add_dataset(root, name, source, Wanted(**wanted))
    return manifest


def photographs(folder: Path, sizes: tuple[tuple[int, int], ...] = ((20, 16),), count: int = 6) -> Path:
    """Plain colours with a dark corner, a folder a class, in several formats."""
    colours = {"daisy": (250, 240, 10), "rose": (220, 10, 40), "tulip": (240, 120, 200)}
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", sizes[i % len(sizes)], colour)
            image.paste((0, 0, 0), (0, 0, 4, 4))
            image.save(folder / name / f"{i}.{('png', 'bmp', 'ppm')[i % 3]}")
    return folder


def nothing_left(root: Path) -> bool:
    return not (root / FOLDER).exists() or os.listdir(root / FOLDER) == []


# -- arrays ----------------------------------------------------------------------------------------------------------


def test_an_npz_becomes_a_data_set_with_the_same_pixels(tmp_path: Path) -> None:
    arrays = digits()
    manifest = register(
        tmp_path, save_npz(tmp_path / "a.npz", arrays), title="Mine", class_names=tuple("abcde")
    )
    assert (manifest.shape, manifest.classes, manifest.train_size, manifest.val_size) == (
        (1, 12, 10),
        5,
        60,
        20,
    )
    assert manifest.split == "own"
    DATASETS.look_in(tmp_path)
    assert DATASETS["mine"].on_disk(tmp_path)
    assert DATASETS["mine"].name_of(2) == "c"
    data = load_dataset("mine", tmp_path)
    assert np.array_equal(data.train_images[:, 0].numpy(), arrays["train_X"])
    assert data.val_labels.tolist() == arrays["test_y"].tolist()
    assert data.val_labels.dtype == torch.int64
    assert manifest.digest.startswith(data.digest)
    assert (data.classes, data.shape) == (5, (1, 12, 10))


def test_the_classes_file_is_read_whatever_its_order_and_types(tmp_path: Path) -> None:
    a = digits(60, 20, 28, 28)
    parts = [a["train_X"], a["test_X"], a["train_y"], a["test_y"]]
    scaled = [
        a["train_X"] / 255,
        (a["test_X"] / 255).astype(np.float32),
        a["train_y"].astype(np.uint8),
        a["test_y"],
    ]
    one_hot = [a["train_X"], a["test_X"], np.eye(5)[a["train_y"]], np.eye(5)[a["test_y"]]]
    flat = [
        a["train_X"].reshape(60, 784),
        a["test_X"].reshape(20, 784),
        a["train_y"][:, None],
        a["test_y"][:, None],
    ]
    cell = np.empty((), object)
    cell[()] = a
    saved: dict[str, Any] = {
        "as-the-class": objects(parts),
        "zero-to-one": objects(scaled),
        "one-hot": objects(one_hot),
        "flat": objects(flat),
        "pairs": objects([a["train_X"], a["train_y"], a["test_X"], a["test_y"]]),
        "a-dictionary": cell,
    }
    digests = {
        register(tmp_path, save_npy(tmp_path / f"{name}.npy", content), name).digest
        for name, content in saved.items()
    }
    assert digests == {register(tmp_path, save_npz(tmp_path / "a.npz", a), "npz").digest}


@pytest.mark.parametrize("names", [("train_images", "train_labels", "val_images", "val_labels"), ("X", "y")])
def test_other_names_are_known(tmp_path: Path, names: tuple[str, ...]) -> None:
    arrays = dict(zip(names, digits().values(), strict=False))
    manifest = register(tmp_path, save_npz(tmp_path / "a.npz", arrays | {"README": np.zeros(3)}))
    assert manifest.split == ("own" if len(names) == 4 else "drawn")
    assert manifest.train_size == (60 if len(names) == 4 else 50)


@pytest.mark.parametrize("shape", [(10, 12, 3), (3, 10, 12)])
def test_colours_come_last_or_first(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = digits(60, 20, *shape)
    assert register(tmp_path, save_npz(tmp_path / "a.npz", arrays)).shape == (3, 10, 12)
    DATASETS.look_in(tmp_path)
    first = load_dataset("mine", tmp_path).train_images[0].numpy()
    assert np.array_equal(
        first, arrays["train_X"][0] if shape[0] == 3 else arrays["train_X"][0].transpose(2, 0, 1)
    )


def test_a_set_without_a_split_gets_one_that_is_the_same_everywhere(tmp_path: Path) -> None:
    arrays = {"X": digits(100)["train_X"], "y": np.arange(100) % 5}
    source = save_npz(tmp_path / "a.npz", arrays)
    one, two = (register(tmp_path / host, source, val_fraction=0.3) for host in ("one", "two"))
    assert one.digest == two.digest
    assert (one.train_size, one.val_size) == (70, 30)
    assert register(tmp_path / "three", source, val_fraction=0.3, seed=1).digest != one.digest
    labels = np.array([0] * 10 + [1] * 3 + [2])
    train, val = draw_validation(labels, 0.2, 0)
    assert sorted([*train, *val]) == list(range(14))
    assert np.bincount(labels[val], minlength=3).tolist() == [
        2,
        1,
        0,
    ]  # each class its share; one keeps its only one
    assert val.tolist() == draw_validation(labels, 0.2, 0)[1].tolist()


def change(**parts: Any) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, **parts}


X, Y = np.zeros((60, 12, 10), np.uint8), np.arange(60) % 5
DAMAGED: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "fewer labels": (change(train_y=Y[:50]), "train_X has 60 images, train_y 50 labels"),
    "other sides": (change(test_X=np.zeros((20, 9, 9), np.uint8)), "different shapes"),
    "four channels": (
        change(train_X=np.zeros((60, 8, 8, 4), np.uint8)),
        r"train_X has shape \[60, 8, 8, 4\]",
    ),
    "not square": (change(train_X=np.zeros((60, 120), np.uint8)), "square grey"),
    "tiny": (change(train_X=np.zeros((60, 2, 2), np.uint8)), "images of 2x2; sides may be 4 to 512"),
    "standardised": (
        change(train_X=np.random.default_rng(0).normal(size=(60, 12, 10))),
        "before they were standardised",
    ),
    "no numbers": (change(train_X=np.full((60, 12, 10), np.nan)), "pixels from nan"),
    "over 255": (change(train_X=X.astype(np.int32) + 300), "must be 0 to 255"),
    "text": (change(train_X=np.full((60, 12, 10), "a")), "train_X cannot be read"),
    "complex": (change(train_X=X.astype(complex)), "train_X cannot be read"),
    "negative labels": (change(train_y=Y - 1), "labels run from -1 to 4"),
    "many labels": (change(train_y=Y + 5_000), "at most 1,000"),
    "half labels": (change(train_y=Y + 0.5), "not whole"),
    "a gap": (change(train_y=np.where(Y == 3, 4, Y)), "no training image is of class 3"),
    "from one": (change(train_y=Y + 1, test_y=np.arange(20) % 5 + 1), "no training image is of class 0"),
    "one class": (change(train_y=Y * 0, test_y=np.zeros(20, int)), "nothing to tell apart"),
    "two-hot": (change(train_y=np.ones((60, 5))), "not one-hot"),
    "labels for images": (change(train_y=X), "labels are one whole number"),
    "no image": (change(train_X=X[:0], train_y=Y[:0]), "train_X holds no image"),
    "no names": (lambda arrays: {"a": X, "b": Y}, "holds a, b; name the arrays train_X"),
    "objects": (change(train_y=objects([X, Y])), "train_y is an array of objects"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_no_data_set_is_refused_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    make, words = DAMAGED[damage]
    source = save_npz(tmp_path / "a.npz", make(digits()))
    with pytest.raises(UnusableSource, match=words):
        register(tmp_path, source)
    assert nothing_left(tmp_path)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


def test_no_file_can_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "sprung"
    monkeypatch.setenv("TRAP", str(trap))
    parts = list(digits().values())
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (4,)})
    bare = tmp_path / "bare.npy"
    bare.write_bytes(header.getvalue() + pickle.dumps(Trap()))
    for source in (
        save_npy(tmp_path / "one.npy", objects([Trap(), *parts[1:]])),
        save_npy(tmp_path / "behind.npy", objects([*parts, Trap()])),
        save_npz(tmp_path / "packed.npz", digits() | {"train_y": objects([Trap()])}),
        bare,
    ):
        with pytest.raises(UnusableSource, match=r"cannot be read|wants"):
            register(tmp_path, source)
    assert not trap.exists()
    assert nothing_left(tmp_path)


# -- archives that lie -----------------------------------------------------------------------------------------------


def npy_bytes(array: NDArray[Any], claimed: tuple[int, ...] | None = None) -> bytes:
    out = io.BytesIO()
    if claimed is None:
        np.save(out, array)
    else:
        header = {"descr": array.dtype.str, "fortran_order": False, "shape": claimed}
        np.lib.format.write_array_header_1_0(out, header)
        out.write(array.tobytes())
    return out.getvalue()


def archive_with(path: Path, train_images: bytes, **more: Any) -> Path:
    arrays = digits()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_X.npy", train_images)
        for name in ("train_y", "test_X", "test_y"):
            archive.writestr(f"{name}.npy", npy_bytes(arrays[name]))
        for name, content in more.items():
            archive.writestr(f"{name}.npy", content)
    return path


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(npz.read_npz, "__defaults__", (1_000_000,))
    monkeypatch.setattr(npz, "read_stream", lambda *_: pytest.fail("it was unpacked"))
    source = archive_with(tmp_path / "a.npz", npy_bytes(np.zeros((60, 200, 200), np.uint8)))
    assert source.stat().st_size < 50_000
    with pytest.raises(UnusableSource, match=r"unpacks to 2,\d+,\d+ bytes, over 1,000,000"):
        register(tmp_path, source)
    assert nothing_left(tmp_path)


def test_a_member_larger_than_it_says_is_cut_off(tmp_path: Path) -> None:
    source = archive_with(tmp_path / "a.npz", npy_bytes(np.zeros((6_000, 12, 10), np.uint8)))
    content = bytearray(source.read_bytes())
    told = struct.pack("<I", len(npy_bytes(np.zeros((6_000, 12, 10), np.uint8))))
    for place in (
        i for i in range(len(content)) if content[i : i + 4] == told
    ):  # in both heads of the member
        content[place : place + 4] = struct.pack("<I", 500)
    source.write_bytes(content)
    with pytest.raises(UnusableSource, match="train_X cannot be read"):
        register(tmp_path, source)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy_bytes(X, (10**12, 12, 10)), "another size than it announces"),
        (npy_bytes(X, (-60, 12, 10)), "another size|header|none"),
        (npy_bytes(X)[:-50], "another size"),
        (npy_bytes(X) + b"more", "another size"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535, "header of a .npy file"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"(" * 1_000, "header of a .npy file|cut short"),
        (b"", "header of a .npy file|cut short"),
        (pickle.dumps(digits()), "header of a .npy file"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(UnusableSource, match=words):
        register(tmp_path, archive_with(tmp_path / "a.npz", content))
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UnusableSource):
        register(tmp_path, tmp_path / "a.npy")
    assert nothing_left(tmp_path)


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    whole = save_npz(tmp_path / "a.npz", digits(60, 20, 28, 28)).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    for content in (whole[:-30], whole[: len(whole) // 2], whole[100:200], b"PK", bytes(flipped)):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(UnusableSource, match=r"a\.npz"):
            register(tmp_path, tmp_path / "a.npz")
    assert nothing_left(tmp_path)


def test_an_archive_of_too_many_or_equal_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("train_X.npy", npy_bytes(X))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train_X.npy", npy_bytes(X))
    with pytest.raises(UnusableSource, match="two of one name"):
        register(tmp_path, tmp_path / "twice.npz")
    monkeypatch.setattr(npz, "MAX_MEMBERS", 3)
    with pytest.raises(UnusableSource, match="over 3 members"):
        register(tmp_path, save_npz(tmp_path / "many.npz", digits()))


def test_a_file_over_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy.read_arrays, "__defaults__", (1_000,))
    source = save_npy(tmp_path / "a.npy", objects(list(digits().values())))
    with pytest.raises(UnusableSource, match="over 1,000"):
        register(tmp_path, source)


# -- folders of images -----------------------------------------------------------------------------------------------


def test_a_folder_of_images_is_read_as_torchvision_orders_it(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "flowers")
    (folder / ".git").mkdir()
    (folder / "__MACOSX").mkdir()
    manifest = register(tmp_path, folder, val_fraction=0.34)
    assert manifest.class_names == ("daisy", "rose", "tulip")
    assert (manifest.shape, manifest.train_size, manifest.val_size) == ((3, 16, 20), 12, 6)
    DATASETS.look_in(tmp_path)
    data = load_dataset("mine", tmp_path)
    assert data.train_images[0, :, 8, 8].tolist() == [250, 240, 10]  # R, G, B of a daisy
    assert data.train_images[0, :, 0, 0].tolist() == [0, 0, 0]
    assert data.val_labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_its_own_split_is_kept_and_classes_go_by_name(tmp_path: Path) -> None:
    photographs(tmp_path / "flowers" / "train")
    photographs(tmp_path / "flowers" / "val", count=2)
    for file in (tmp_path / "flowers" / "val" / "daisy").iterdir():
        file.unlink()
    (tmp_path / "flowers" / "val" / "daisy").rmdir()  # torchvision alone would number the others anew
    manifest = register(tmp_path, tmp_path / "flowers")
    assert (manifest.split, manifest.train_size, manifest.val_size) == ("own", 18, 4)
    DATASETS.look_in(tmp_path)
    assert load_dataset("mine", tmp_path).val_labels.tolist() == [1, 1, 2, 2]
    (tmp_path / "flowers" / "train" / "rose").rename(tmp_path / "roses")
    with pytest.raises(UnusableSource, match="without training images: rose"):
        register(tmp_path, tmp_path / "flowers", "again")


def test_sizes_are_asked_for_where_they_differ(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "flowers", ((20, 16), (40, 64)))
    with pytest.raises(UnusableSource, match=r"2 sizes, from 20x16 .*png.* to 40x64 .* --size 32"):
        register(tmp_path, folder)
    assert register(tmp_path, folder, size=8).shape == (3, 8, 8)
    assert register(tmp_path, folder, "grey", size=8, grey=True).shape == (1, 8, 8)


def test_grey_images_stay_grey_and_turned_ones_are_turned(tmp_path: Path) -> None:
    for name, level in (("dark", 10), ("light", 240)):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for i in range(3):
            turned = Image.new("L", (8, 16), level)
            turned.putpixel((0, 15), 128)  # the lower left corner
            exif = Image.Exif()
            exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
            turned.save(tmp_path / "grey" / name / f"{i}.png", exif=exif)
    assert register(tmp_path, tmp_path / "grey").shape == (1, 8, 16)
    DATASETS.look_in(tmp_path)
    assert load_dataset("mine", tmp_path).train_images[0, 0, 0, 0] == 128  # now the upper left one


def _cut(folder: Path) -> None:
    path = folder / "rose" / "0.png"
    path.write_bytes(path.read_bytes()[:-20])


def _text(folder: Path) -> None:
    (folder / "rose" / "0.png").write_text("<html>log in first</html>")


def _postscript(folder: Path) -> None:
    """Pillow would start Ghostscript for it, whatever the file is called."""
    (folder / "rose" / "0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 16\n%%EndComments\n"
    )


def _bomb(folder: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(folder / "rose" / "0.png")


def _deep(folder: Path) -> None:
    Image.fromarray(np.full((16, 20), 40_000, np.uint16)).save(folder / "rose" / "0.png")


def _empty_class(folder: Path) -> None:
    (folder / "aster").mkdir()


def _no_classes(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def _hostile_name(folder: Path) -> None:
    (folder / "rose").rename(folder / "rose\u202egnp")


def _huge(folder: Path) -> None:
    for path in folder.rglob("*.*"):
        Image.new("RGB", (600, 600)).save(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, r"rose/0\.png cannot be used"),
        (_text, r"rose/0\.png cannot be used"),
        (_postscript, r"rose/0\.png cannot be used"),
        (_bomb, r"rose/0\.png cannot be used: .*(30,000|decompression bomb)"),
        (_deep, r"rose/0\.png cannot be used: it has more than 8 bits"),
        (_empty_class, "aster"),
        (_no_classes, "no folders in it"),
        (_hostile_name, "cannot be a class: its name must not contain"),
        (_huge, "600x600 pixels, and sides may be 4 to 512; give a size with --size"),
    ],
)
def test_images_that_cannot_be_used_are_named(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = photographs(tmp_path / "flowers")
    damage(folder)
    with pytest.raises(UnusableSource, match=words):
        register(tmp_path, folder)
    assert nothing_left(tmp_path)


# -- names, folders, manifests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "",
        "/etc",
        "a/b",
        "a\\b",
        "A",
        "a b",
        "a\n",
        "a--b",
        "-a",
        "a" * 41,
        "é",
        "a.b",
        "a\0",
    ],
)
def test_a_name_is_small_letters_or_it_is_refused(tmp_path: Path, name: str) -> None:
    source = save_npz(tmp_path / "a.npz", digits())
    with pytest.raises(UnusableSource, match="name: must be small letters"):
        register(tmp_path / "datasets", source, name)
    with pytest.raises(UnusableSource, match="name: must be small letters"):
        remove_dataset(tmp_path / "datasets", name)
    with pytest.raises(ValidationError):
        RunSpec(dataset=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]


def test_a_name_is_given_once(tmp_path: Path) -> None:
    source = save_npz(tmp_path / "a.npz", digits())
    with pytest.raises(UnusableSource, match="built-in"):
        register(tmp_path, source, "mnist")
    register(tmp_path, source)
    with pytest.raises(UnusableSource, match=r"registered already.*trainyard dataset remove mine"):
        register(tmp_path, source)
    remove_dataset(tmp_path, "mine")
    assert nothing_left(tmp_path)
    with pytest.raises(UnusableSource, match="no data set 'mine' is registered here; there is none"):
        remove_dataset(tmp_path, "mine")
    register(tmp_path, source)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"title": "two\nlines"}, "--title: must not contain line breaks"),
        ({"title": "x" * 101}, "--title: .*100"),
        ({"class_names": ("a", "b")}, "2 class names, but the labels run from 0 to 4"),
        ({"class_names": ("a", "b", "c", "d", "")}, "--class-names: must not be empty"),
        ({"val_fraction": 1.0}, "--val-fraction"),
        ({"size": 32}, "--size and --grey are for image folders"),
        ({"size": 3}, "--size: must be from 4"),
    ],
)
def test_what_is_said_beside_is_checked_first(tmp_path: Path, wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(UnusableSource, match=words):
        register(tmp_path, save_npz(tmp_path / "a.npz", digits()), **wanted)
    assert nothing_left(tmp_path)


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    source = save_npz(tmp_path / "a.npz", digits())

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_dataset(tmp_path, "mine", source, Wanted(), interrupt)
    assert nothing_left(tmp_path)
    old = tmp_path / FOLDER / ".adding-dead"
    old.mkdir()
    os.utime(old, (0, 0))
    register(tmp_path, source)
    assert os.listdir(tmp_path / FOLDER) == ["mine"]


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.registrar.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UnusableSource, match=r"the disk of .* has 0 MB left"):
        register(tmp_path, save_npz(tmp_path / "a.npz", digits()))
    assert nothing_left(tmp_path)


def test_specs_know_what_is_registered_at_the_moment(tmp_path: Path) -> None:
    source = save_npz(tmp_path / "a.npz", digits())
    DATASETS.look_in(tmp_path)
    with pytest.raises(ValidationError, match="unknown dataset 'mine'; choose one of digits"):
        RunSpec(dataset="mine")
    register(tmp_path, source)
    assert "mine" in RunSpec.model_json_schema()["properties"]["dataset"]["enum"]
    spec = RunSpec(model="mlp", dataset="mine", batch_size=32)
    assert (spec.steps_per_epoch, spec.images_per_epoch) == (2, 60)
    with pytest.raises(ValidationError, match="mine has 60 images there"):
        RunSpec(model="mlp", dataset="mine", train_size=61)
    remove_dataset(tmp_path, "mine")
    with pytest.raises(ValidationError, match="unknown dataset"):
        RunSpec(dataset="mine")
    with pytest.raises(
        DatasetUnavailable, match=r"'mine' is not registered on this host .*trainyard dataset add"
    ):
        load_dataset("mine", tmp_path)


def _labels_beyond(folder: Path) -> None:
    np.save(folder / "train_labels.npy", np.full(60, 7, np.uint16))


def _other_pixels(folder: Path) -> None:
    np.save(folder / "val_images.npy", np.zeros((20, 1, 12, 10), np.uint8))


def _other_shape(folder: Path) -> None:
    np.save(folder / "val_images.npy", np.zeros((20, 3, 12, 10), np.uint8))


def _pickled(folder: Path) -> None:
    np.save(folder / "val_images.npy", objects([Trap()]), allow_pickle=True)


def _claims_more(folder: Path) -> None:
    (folder / "train_images.npy").write_bytes(npy_bytes(X, (10**12, 1, 12, 10)))


def _gone(folder: Path) -> None:
    (folder / "val_labels.npy").unlink()


@pytest.mark.parametrize(
    "damage", [_labels_beyond, _other_pixels, _other_shape, _pickled, _claims_more, _gone]
)
def test_damaged_arrays_are_not_trained_on(
    tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    register(tmp_path, save_npz(tmp_path / "a.npz", digits()))
    DATASETS.look_in(tmp_path)
    damage(tmp_path / FOLDER / "mine")
    with pytest.raises(
        DatasetUnavailable, match=r"files of mine in .* are damaged .*trainyard dataset remove mine"
    ):
        load_dataset("mine", tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"name": "other"}, {"shape": [3, 12]}, {"shape": [2, 12, 10]}, {"shape": [1, 10**9, 10**9]},
        {"classes": 1}, {"classes": "5"}, {"class_names": ["a"]}, {"title": ""}, {"title": "a\u202eb"},
        {"train_size": -1}, {"digest": "../../x"}, {"extra": 1},
    ],
)  # fmt: skip
def test_a_manifest_is_believed_only_within_its_bounds(tmp_path: Path, change: dict[str, Any]) -> None:
    register(tmp_path, save_npz(tmp_path / "a.npz", digits()))
    path = tmp_path / FOLDER / "mine" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = Registry(tmp_path).read()
    assert "mine" not in found.manifests
    assert str(path) in found.damaged["mine"]
    DATASETS.look_in(tmp_path)
    assert "mine" not in DATASETS
    remove_dataset(tmp_path, "mine")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * 1_000_001, b'{"shape": NaN}']
)
def test_a_manifest_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FOLDER / "mine").mkdir(parents=True)
    (tmp_path / FOLDER / "mine" / "manifest.json").write_bytes(content)
    (tmp_path / FOLDER / "empty").mkdir()
    (tmp_path / FOLDER / "a-file").touch()
    found = Registry(tmp_path).read()
    assert found.manifests == {}
    assert sorted(found.damaged) == ["a-file", "empty", "mine"]
