"""Data sets: what is read, and what is said when it cannot be."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST

from ml.catalog import DATASETS
from ml.data import DatasetUnavailable, find_digits, load_dataset, split_for, subset
from ml.spec import RunSpec

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_bytes(values: Tensor) -> bytes:
    """The idx format: two zero bytes, 8 for uint8, the number of dimensions, their sizes, the values."""
    header = struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def tiny_mnist() -> dict[str, bytes]:
    """Seven training and five validation images in MNIST's format, by file name."""
    generator = torch.Generator().manual_seed(1)
    files = {}
    for prefix, n in (("train", 7), ("t10k", 5)):
        images = torch.randint(0, 256, (n, 28, 28), generator=generator)
        files[f"{prefix}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx_bytes(torch.arange(n) % 10)
    return files


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that torchvision's MNIST takes for its mirror, with the tiny data set in it."""
    folder = tmp_path / "mirror"
    packed = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in tiny_mnist().items()}
    write_files(folder, packed)
    monkeypatch.setattr(MNIST, "mirrors", [f"{(tmp_path / 'nowhere').as_uri()}/", f"{folder.as_uri()}/"])
    monkeypatch.setattr(MNIST, "resources", [(n, hashlib.md5(d).hexdigest()) for n, d in packed.items()])
    return folder


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    table = np.loadtxt(find_digits(), delimiter=",")
    assert np.array_equal(table[:, :-1], pixels)
    assert np.array_equal(table[:, -1], labels)


def test_digits_need_no_files_and_are_28x28(tmp_path: Path) -> None:
    data = load_dataset("digits", tmp_path)
    assert data.train_images.shape == (1_437, 1, 28, 28)
    assert data.val_images.shape == (360, 1, 28, 28)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.dtype == torch.int64
    assert data.train_images.max() == 255
    assert set(data.train_labels.tolist()) == set(data.val_labels.tolist()) == set(range(10))
    assert data.shape == DATASETS["digits"].shape
    assert load_dataset("digits", tmp_path).digest == data.digest
    assert os.listdir(tmp_path) == []


def keys(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_held_out_images_come_from_the_training_images_and_leave_them(tmp_path: Path) -> None:
    data = load_dataset("digits", tmp_path)
    split = split_for(RunSpec(dataset="digits", val_from="train"), data)
    assert (len(split.train_images), len(split.val_images)) == (1_437 - 143, 143)
    assert sorted(keys(split.train_images) + keys(split.val_images)) == sorted(keys(data.train_images))
    assert set(keys(split.val_images)).isdisjoint(keys(data.val_images))
    kept = [key for key in keys(data.train_images) if key not in set(keys(split.val_images))]
    assert kept == [key for key in keys(split.train_images) if key not in set(keys(split.val_images))]
    label_of = dict(zip(keys(data.train_images), data.train_labels.tolist(), strict=True))
    for images, labels in (
        (split.train_images, split.train_labels),
        (split.val_images, split.val_labels),
    ):
        assert [label_of[key] for key in keys(images)] == labels.tolist()
    assert (split.digest, split.mean, split.std) == (data.digest, data.mean, data.std)
    assert split.val_digest != data.val_digest
    assert split_for(RunSpec(dataset="digits", val_from="train"), split) is split


def test_held_out_images_are_the_same_for_every_seed_and_few_are_among_many(tmp_path: Path) -> None:
    data = load_dataset("digits", tmp_path)
    asked: dict[str, Any] = {"dataset": "digits", "val_from": "train"}
    first = split_for(RunSpec(**asked, val_size=200, seed=1), data)
    again = split_for(RunSpec(**asked, val_size=200, seed=2, train_size=50), data)
    assert torch.equal(first.val_images, again.val_images)
    assert first.val_digest == again.val_digest
    few = split_for(RunSpec(**asked, val_size=50), data)
    assert set(keys(few.val_images)) <= set(keys(first.val_images))
    assert len(few.train_images) == 1_437 - 50


def test_mean_and_deviation_are_the_training_images(tmp_path: Path) -> None:
    data = load_dataset("digits", tmp_path)
    pixels = data.train_images.double() / 255
    assert data.mean == pytest.approx((float(pixels.mean()),), abs=1e-12)
    assert data.std == pytest.approx((float(pixels.std(correction=0)),), abs=1e-12)


def test_real_mnist() -> None:
    root = Path(os.environ.get("TRAINYARD_DATASETS", "no-such-folder"))
    if not DATASETS["mnist"].on_disk(root):
        pytest.skip(
            "no MNIST: set TRAINYARD_DATASETS to a folder with MNIST/raw in it (torchvision's layout)"
        )
    data = load_dataset("mnist", root)
    assert (len(data.train_images), len(data.val_images)) == (60_000, 10_000)
    assert data.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.mean == pytest.approx((0.1307,), abs=1e-4)  # the figures of PyTorch's MNIST example
    assert data.std == pytest.approx((0.3081,), abs=1e-4)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path: Path, name: str) -> None:
    folder = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}[name]
    write_files(tmp_path / folder / "raw", tiny_mnist())
    assert DATASETS[name].on_disk(tmp_path)
    data = load_dataset(name, tmp_path)
    assert data.train_images.shape == (7, 1, 28, 28)
    assert data.train_images.numpy().tobytes() == tiny_mnist()["train-images-idx3-ubyte"][16:]
    assert data.val_labels.tolist() == [0, 1, 2, 3, 4]


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    files = tiny_mnist()
    write_files(tmp_path / "MNIST" / "raw", files)
    before = load_dataset("mnist", tmp_path).digest
    changed = bytearray(files["t10k-images-idx3-ubyte"])
    changed[-1] ^= 1
    write_files(tmp_path / "MNIST" / "raw", {"t10k-images-idx3-ubyte": bytes(changed)})
    assert len(before) == 16
    assert load_dataset("mnist", tmp_path).digest != before


def test_packed_files_beside_are_unpacked(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_files(raw, {f"{name}.gz": gzip.compress(data) for name, data in tiny_mnist().items()})
    assert DATASETS["mnist"].on_disk(tmp_path)
    assert len(load_dataset("mnist", tmp_path).train_images) == 7


def test_a_missing_data_set_is_downloaded_once_with_progress(tmp_path: Path, mirror: Path) -> None:
    root, told = tmp_path / "datasets", list[tuple[str, float]]()
    data = load_dataset("mnist", root, lambda what, done: told.append((what, done)))
    assert len(data.train_images) == 7
    assert {what for what, _ in told} == {"Downloading MNIST"}
    assert sorted(done for _, done in told) == [done for _, done in told]
    assert 0 < told[0][1] <= told[-1][1] <= 1
    assert sorted(os.listdir(root / "MNIST" / "raw")) == sorted(NAMES)
    for file in mirror.iterdir():
        file.unlink()
    assert load_dataset("mnist", root).digest == data.digest


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_failed_download_says_what_to_do_and_leaves_no_partial_file(
    tmp_path: Path, mirror: Path, damage: str
) -> None:
    victim = mirror / "t10k-images-idx3-ubyte.gz"
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:100] if damage == "cut" else b"<html>log in first</html>")
    root = tmp_path / "datasets"
    with pytest.raises(DatasetUnavailable) as error:
        load_dataset("mnist", root)
    message = str(error.value)
    for words in (*NAMES, str(root / "MNIST" / "raw"), "TRAINYARD_DATASETS", "dataset digits"):
        assert words in message
    assert sorted(os.listdir(root / "MNIST" / "raw")) == sorted(NAMES[:2])
    assert not DATASETS["mnist"].on_disk(root)


def test_two_runs_may_download_at_once(tmp_path: Path, mirror: Path) -> None:
    root, both_in = tmp_path / "datasets", Barrier(2, timeout=30)

    def load(_: int) -> str:
        waited: list[bool] = []

        def meet(what: str, done: float) -> None:  # both hold the first file's bytes before either writes it
            if not waited:
                waited.append(True)
                both_in.wait()

        return load_dataset("mnist", root, meet).digest

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(load, range(2))
    assert first == second
    assert sorted(os.listdir(root / "MNIST" / "raw")) == sorted(NAMES)


def test_an_interrupted_download_leaves_no_partial_file(tmp_path: Path, mirror: Path) -> None:
    def cancel(what: str, done: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        load_dataset("mnist", tmp_path / "datasets", cancel)
    assert os.listdir(tmp_path / "datasets" / "MNIST" / "raw") == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, mirror: Path) -> None:
    (tmp_path / "datasets").write_text("a file where the folder should be")
    with pytest.raises(
        DatasetUnavailable, match=r"datasets/MNIST/raw.*nothing can be written there.*TRAINYARD_DATASETS"
    ):
        load_dataset("mnist", tmp_path / "datasets")


def _cut(files: dict[str, bytes]) -> None:
    files["train-images-idx3-ubyte"] = files["train-images-idx3-ubyte"][:-100]


def _empty(files: dict[str, bytes]) -> None:
    files["t10k-labels-idx1-ubyte"] = b""


def _html(files: dict[str, bytes]) -> None:
    files["train-labels-idx1-ubyte"] = b"<html>log in first</html>"


def _fewer_labels(files: dict[str, bytes]) -> None:
    files["train-labels-idx1-ubyte"] = idx_bytes(torch.arange(3))


def _wrong_size(files: dict[str, bytes]) -> None:
    files["train-images-idx3-ubyte"] = idx_bytes(torch.zeros(7, 20, 20))


def _label_eleven(files: dict[str, bytes]) -> None:
    files["train-labels-idx1-ubyte"] = idx_bytes(torch.full((7,), 11))


@pytest.mark.parametrize("damage", [_cut, _empty, _html, _fewer_labels, _wrong_size, _label_eleven])
def test_damaged_files_are_named(tmp_path: Path, damage: Callable[[dict[str, bytes]], None]) -> None:
    files = tiny_mnist()
    damage(files)
    write_files(tmp_path / "MNIST" / "raw", files)
    with pytest.raises(DatasetUnavailable, match=r"files of MNIST in .* are damaged .* Delete them"):
        load_dataset("mnist", tmp_path)


def test_a_damaged_packed_file_is_named(tmp_path: Path) -> None:
    packed = {f"{name}.gz": gzip.compress(data)[:-20] for name, data in tiny_mnist().items()}
    write_files(tmp_path / "MNIST" / "raw", packed)
    with pytest.raises(DatasetUnavailable, match=r"train-images-idx3-ubyte\.gz is damaged .* Delete it"):
        load_dataset("mnist", tmp_path)


# -- CIFAR-10 --------------------------------------------------------------------------------------------------------


def tiny_cifar() -> dict[str, bytes]:
    """Batches as the data set's authors write them, four images each, by file name."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    files = {
        name: {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [i, 3, 5, 9]}
        for i, name in enumerate(names)
    }
    meta = {"label_names": list(DATASETS["cifar10"].class_names)}
    return {name: pickle.dumps(part, protocol=2) for name, part in (*files.items(), ("batches.meta", meta))}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of the tiny CIFAR-10, which torchvision takes for the published one."""
    files = tiny_cifar()
    path = tmp_path / "authors" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    batches = [[name, md5(content)] for name, content in files.items() if name != "batches.meta"]
    monkeypatch.setattr(CIFAR10, "train_list", batches[:5])
    monkeypatch.setattr(CIFAR10, "test_list", batches[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(files["batches.meta"])})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(path.read_bytes()))
    monkeypatch.setattr(CIFAR10, "url", path.as_uri())
    return path


@pytest.mark.parametrize("way", ["downloaded", "given"])
def test_cifar10_is_read_in_colour_as_torchvision_reads_it(tmp_path: Path, cifar: Path, way: str) -> None:
    root, told = tmp_path / "datasets", list[float]()
    if way == "given":
        root.mkdir()
        shutil.copy(cifar, root)
    data = load_dataset("cifar10", root, lambda _what, done: told.append(done))
    assert bool(told) is (way == "downloaded")
    first = pickle.loads(tiny_cifar()["data_batch_1"])
    assert data.train_images.shape == (20, 3, 32, 32)
    assert np.array_equal(
        data.train_images[:4].numpy().reshape(4, -1), first["data"]
    )  # planes: all red, green, blue
    assert data.val_labels.tolist() == [5, 3, 5, 9]
    assert len(data.mean) == len(data.std) == 3
    assert DATASETS["cifar10"].on_disk(root)
    cifar.unlink()
    assert load_dataset("cifar10", root).digest == data.digest
    assert {path.name for path in root.iterdir()} - {cifar.name} == {"cifar-10-batches-py"}


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_cifar10_that_cannot_be_had_says_what_to_do(tmp_path: Path, cifar: Path, damage: str) -> None:
    root = tmp_path / "datasets"
    if damage == "gone":
        cifar.unlink()
    else:
        cifar.write_bytes(cifar.read_bytes()[:200] if damage == "cut" else b"<html>log in first</html>")
    with pytest.raises(
        DatasetUnavailable, match=r"cifar-10-python\.tar\.gz, which .* Put that file, .*dataset digits"
    ):
        load_dataset("cifar10", root)
    assert os.listdir(root) == []
    if damage != "gone":
        shutil.copy(cifar, root)
        with pytest.raises(DatasetUnavailable, match=r"is damaged or another file .* Delete it"):
            load_dataset("cifar10", root)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


def test_a_batch_that_is_not_the_published_one_is_not_opened(
    tmp_path: Path, cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    load_dataset("cifar10", tmp_path / "datasets")
    for name in ("data_batch_3", "test_batch"):
        path = tmp_path / "datasets" / "cifar-10-batches-py" / name
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(DatasetUnavailable, match=r"files of CIFAR-10 in .* are damaged .* Delete them"):
            load_dataset("cifar10", tmp_path / "datasets")
        path.write_bytes(whole)
    assert not (tmp_path / "sprung").exists()


def test_subset_is_drawn_by_the_seed_alone() -> None:
    images, labels = torch.arange(100).view(100, 1, 1, 1), torch.arange(100)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b = subset(images, labels, 10, seed=3), subset(images, labels, 10, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a[1], b[1])
    assert torch.equal(a[0].flatten(), a[1])
    assert len(set(a[1].tolist())) == 10
    assert not torch.equal(a[1], subset(images, labels, 10, seed=4)[1])
    assert subset(images, labels, None, seed=3)[1] is labels
    with pytest.raises(ValueError, match="101 images are asked for, but the files hold 100"):
        subset(images, labels, 101, seed=3)
