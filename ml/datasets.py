"""Data sets by name: those that are built in, and those that were registered on this host.

Imports no torch. `load` names the code as `"module:function"`; the trainer imports it.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from pathlib import Path

from ml.registered import ARRAYS, FOLDER, NOTHING, Manifest, Registered, Registry


@dataclass(frozen=True)
class Dataset:
    """One classification data set: `shape` is (channels, height, width) as the models see it.

    `files` lists, relative to the datasets folder, what must be on disk; each entry is a tuple of
    alternatives. A data set without files ships with a library and is always there. `digest` is the SHA-256
    of a registered one's arrays; the built-in ones have none here.
    """

    name: str
    title: str
    summary: str
    load: str
    shape: tuple[int, int, int]
    classes: int
    train_size: int
    val_size: int
    files: tuple[tuple[str, ...], ...] = ()
    download_mb: int = 0
    class_names: tuple[str, ...] = ()  # none: the numbers themselves
    digest: str = ""

    @property
    def is_registered(self) -> bool:
        return bool(self.digest)

    def name_of(self, label: int) -> str:
        """What a class is called."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def on_disk(self, root: Path) -> bool:
        """True when every file that the data set needs lies under `root` (or it needs none)."""
        return all(any((root / name).is_file() for name in alternatives) for alternatives in self.files)


def _idx_files(folder: str) -> tuple[tuple[str, ...], ...]:
    names = ("train-images", "train-labels", "t10k-images", "t10k-labels")
    kinds = ("idx3-ubyte", "idx1-ubyte") * 2
    return tuple(
        (f"{folder}/raw/{name}-{kind}", f"{folder}/raw/{name}-{kind}.gz")
        for name, kind in zip(names, kinds, strict=True)
    )


BUILT_IN: dict[str, Dataset] = {
    d.name: d
    for d in (
        Dataset(
            "digits",
            "Digits",
            "1,797 handwritten digits that come with scikit-learn, enlarged to 28x28; needs no network.",
            "ml.data:load_digits",
            (1, 28, 28),
            10,
            1_437,
            360,
        ),
        Dataset(
            "mnist",
            "MNIST",
            "70,000 handwritten digits; the 10,000 test images are the validation set.",
            "ml.data:load_mnist",
            (1, 28, 28),
            10,
            60_000,
            10_000,
            _idx_files("MNIST"),
            12,
        ),
        Dataset(
            "fashion-mnist",
            "Fashion-MNIST",
            "70,000 pictures of clothes in MNIST's format; harder than digits.",
            "ml.data:load_fashion_mnist",
            (1, 28, 28),
            10,
            60_000,
            10_000,
            _idx_files("FashionMNIST"),
            31,
            # The order of the data set's own README.
            (
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
        ),
        Dataset(
            "kmnist",
            "KMNIST",
            "70,000 handwritten Japanese characters in MNIST's format; harder than digits.",
            "ml.data:load_kmnist",
            (1, 28, 28),
            10,
            60_000,
            10_000,
            _idx_files("KMNIST"),
            21,
            # The ten rows of hiragana that it has a character of each, as its paper numbers them.
            ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        ),
        Dataset(
            "cifar10",
            "CIFAR-10",
            "60,000 colour photographs of 32x32 pixels in ten classes; the 10,000 test images are the validation set.",
            "ml.data:load_cifar10",
            (3, 32, 32),
            10,
            50_000,
            10_000,
            tuple(
                (f"cifar-10-batches-py/{name}", "cifar-10-python.tar.gz")
                for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
            ),
            170,
            # The order of the data set's own batches.meta.
            (
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
        ),
    )
}


class Datasets(Mapping[str, Dataset]):
    """The data sets of this process: built in, then registered, as they are at the moment of asking.

    There is one, below, for specs are judged deep within pydantic, where no settings reach: a process says with
    `look_in` where its data sets lie, and without that knows the built-in ones alone.
    """

    def __init__(self, built_in: Mapping[str, Dataset]) -> None:
        self._built_in = built_in
        self._registry: Registry | None = None
        self._seen: Registered | None = None
        self._all = built_in

    def look_in(self, root: Path) -> None:
        """Know those that are registered in the datasets folder `root`, from now on."""
        self._registry = Registry(root)

    def damaged(self) -> Mapping[str, str]:
        """Folders of registered data sets that cannot be used, with the reason."""
        return self._read().damaged

    def _read(self) -> Registered:
        return NOTHING if self._registry is None else self._registry.read()

    def _now(self) -> Mapping[str, Dataset]:
        seen = self._read()
        if seen is not self._seen:
            registered = {
                name: describe(manifest)
                for name, manifest in seen.manifests.items()
                if name not in self._built_in
            }
            self._all, self._seen = {**self._built_in, **registered}, seen
        return self._all

    def __getitem__(self, name: str) -> Dataset:
        return self._now()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def values(self) -> ValuesView[Dataset]:  # all at one moment: the inherited ones ask for each by itself
        return self._now().values()

    def items(self) -> ItemsView[str, Dataset]:
        return self._now().items()


def describe(manifest: Manifest) -> Dataset:
    """A registered data set in the words of the catalog."""
    return Dataset(
        manifest.name,
        manifest.title,
        f"{manifest.train_size + manifest.val_size:,} images in {manifest.classes:,} classes, registered on this host.",
        "ml.data:load_registered",
        manifest.shape,
        manifest.classes,
        manifest.train_size,
        manifest.val_size,
        tuple((f"{FOLDER}/{manifest.name}/{name}.npy",) for name in ARRAYS),
        class_names=manifest.class_names,
        digest=manifest.digest,
    )


DATASETS = Datasets(BUILT_IN)
