"""Pretrained weights: found, downloaded, verified, and never run as code."""

from __future__ import annotations

import hashlib
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights

from ml import weights
from ml.catalog import DATASETS, MODELS, Pretrained
from ml.data import Split, draw_subset, load_dataset
from ml.models import build_model
from ml.models.pretrained import start_from
from ml.spec import RunSpec
from ml.train import train
from ml.weights import SOURCES, WeightsUnavailable, load_weights
from tests.processes import ROOT
from tests.test_models import imagenet_weights
from tests.test_train import CPU, digits, series
from tests.test_worker import a_yard

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "resnet18-pretrained"


def publish(folder: Path, content: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as torchvision would publish it, named by its SHA-256, which the catalog asks for from now on."""
    made = folder / "made.pth"
    if isinstance(content, bytes):
        made.write_bytes(content)
    else:
        torch.save(content, made)
    path = folder / f"resnet18-{hashlib.sha256(made.read_bytes()).hexdigest()[:8]}.pth"
    made.rename(path)
    monkeypatch.setitem(MODELS, NAME, replace(MODELS[NAME], pretrained=Pretrained(path.name, 47)))
    monkeypatch.setitem(SOURCES, path.name, path.as_uri())
    return path


def place(path: Path, root: Path) -> Path:
    """The file in the datasets folder, where an operator puts it."""
    there = root / "weights" / path.name
    there.parent.mkdir(parents=True)
    there.write_bytes(path.read_bytes())
    return there


@pytest.fixture
def small() -> dict[str, Tensor]:
    return {"conv1.weight": torch.arange(6.0)}


def test_the_catalog_asks_for_torchvisions_own_file() -> None:
    wanted = MODELS[NAME].pretrained
    assert wanted is not None
    assert SOURCES[wanted.file] == ResNet18_Weights.IMAGENET1K_V1.url
    assert SOURCES[wanted.file].endswith("/" + wanted.file)
    assert wanted.sha256_prefix == "f37072fd"
    assert ResNet18_Weights.IMAGENET1K_V1.meta["_file_size"] * 1.048576 == pytest.approx(
        wanted.download_mb, abs=0.5
    )
    for model in MODELS.values():
        assert model.pretrained is None or model.pretrained.file in SOURCES


def test_other_models_need_none(tmp_path: Path) -> None:
    assert load_weights("lenet", tmp_path) is None
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_datasets_folder_is_read(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    place(publish(tmp_path, small, monkeypatch), tmp_path / "data")
    monkeypatch.setattr(weights, "read_blocks", None)  # nothing is downloaded
    read = load_weights(NAME, tmp_path / "data")
    assert read is not None
    assert torch.equal(read["conv1.weight"], small["conv1.weight"])


def test_a_missing_file_is_downloaded_once_with_progress(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, told = publish(tmp_path, small, monkeypatch), list[tuple[str, float]]()
    root = tmp_path / "data"
    assert load_weights(NAME, root, lambda what, done: told.append((what, done))) is not None
    assert {what for what, _ in told} == {"Downloading ResNet-18 pretrained"}
    assert 0 < told[-1][1] <= 1
    assert os.listdir(root / "weights") == [source.name]
    source.unlink()
    assert load_weights(NAME, root) is not None


def test_a_download_that_is_not_wanted_any_more_leaves_nothing(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, small, monkeypatch)

    def stop(_what: str, _done: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        load_weights(NAME, tmp_path / "data", stop)
    assert os.listdir(tmp_path / "data" / "weights") == []


def test_neither_there_nor_to_be_had_says_what_to_put_where(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = publish(tmp_path, small, monkeypatch)
    source.unlink()
    with pytest.raises(WeightsUnavailable) as error:
        load_weights(NAME, tmp_path / "data")
    said = str(error.value)
    assert f"in {source.name} (47 MB), which could not be downloaded" in said
    assert f"Put that file, as torchvision publishes it, in {tmp_path / 'data' / 'weights'}" in said
    assert os.listdir(tmp_path / "data" / "weights") == []


def test_a_folder_that_cannot_be_made_says_so(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, small, monkeypatch)
    (tmp_path / "data").write_text("a file")
    with pytest.raises(WeightsUnavailable, match="nothing can be written there"):
        load_weights(NAME, tmp_path / "data")


def test_a_file_of_another_content_is_refused_and_kept(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = place(publish(tmp_path, small, monkeypatch), tmp_path / "data")
    there.write_bytes(there.read_bytes()[:-1])
    with pytest.raises(
        WeightsUnavailable, match=r"is damaged or another file: its SHA-256 begins with [0-9a-f]{8}\."
    ):
        load_weights(NAME, tmp_path / "data")
    assert there.is_file()


def test_a_download_of_another_content_is_thrown_away(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = publish(tmp_path, small, monkeypatch)
    source.write_bytes(b"<html>Not here</html>")
    with pytest.raises(WeightsUnavailable, match=r"other content \(its SHA-256 differs\)"):
        load_weights(NAME, tmp_path / "data")
    assert os.listdir(tmp_path / "data" / "weights") == []


class Malice:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("packed", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_not_opened(
    tmp_path: Path, packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one whose SHA-256 is right."""
    malice = {"conv1.weight": Malice(tmp_path / "ran")}
    place(
        publish(tmp_path, malice if packed == "torch" else pickle.dumps(malice, protocol=2), monkeypatch),
        tmp_path / "data",
    )
    with pytest.raises(WeightsUnavailable, match="holds more than weights and was not opened"):
        load_weights(NAME, tmp_path / "data")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no file of weights", [1, 2], {"conv1.weight": 3}])
def test_a_file_without_weights_is_refused(
    tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(publish(tmp_path, content, monkeypatch), tmp_path / "data")
    with pytest.raises(
        WeightsUnavailable, match=r"(is not a file of weights|holds more than weights).* Delete it"
    ):
        load_weights(NAME, tmp_path / "data")


@pytest.mark.parametrize("backbone", ["full", "frozen"])
def test_fine_tuning_begins_with_the_files_weights(
    tmp_path: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first loss is, by hand, that of the file's backbone under the new last layer; then it learns."""
    place(publish(tmp_path, imagenet_weights(), monkeypatch), tmp_path / "data")
    loaded = load_weights(NAME, tmp_path / "data")
    assert loaded is not None
    options = {"backbone": backbone, "image_size": 64}
    spec = RunSpec(
        model=NAME, dataset="digits", train_size=4, val_size=2, batch_size=4, epochs=2, lr=0.001, precision="fp32",
        model_options=options,
    )  # fmt: skip
    data = digits()
    losses = series(list(train(spec, data, device=CPU, weights=loaded)), "train/loss")
    assert losses[1] == pytest.approx(first_loss(spec, data, loaded), rel=1e-4)
    assert losses[2] != losses[1]


def first_loss(spec: RunSpec, data: Split, loaded: dict[str, Tensor]) -> float:
    """Of a run whose first batch are all of its images."""
    torch.manual_seed(spec.seed)
    options = MODELS[NAME].options.model_validate(spec.model_options)
    net = build_model(NAME, options, data.shape, data.classes)
    start_from(net, loaded)
    chosen = draw_subset(len(data.train_images), spec.images_per_epoch, spec.seed)
    images = data.train_images[chosen].float() / 255
    return F.cross_entropy(net.train()(images), data.train_labels[chosen]).item()


IN_THE_CATALOG = """
from dataclasses import replace
from ml.catalog import MODELS, Pretrained
MODELS["{model}"] = replace(MODELS["{model}"], pretrained=Pretrained("{file}", 47))
"""


@pytest.mark.slow
def test_a_worker_fine_tunes_a_file_of_weights_on_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the form's spec to the checkpoint, whose backbone is the file's. The file is ours, as torchvision's cannot
    be had everywhere: Python tells the worker and its trainers its name at their start (`sitecustomize`)."""
    mnist = Path(os.environ.get("TRAINYARD_DATASETS", "no-such-folder"))
    if not DATASETS["mnist"].on_disk(mnist):
        pytest.skip(
            "no MNIST: set TRAINYARD_DATASETS to a folder with MNIST/raw in it (torchvision's layout)"
        )
    datasets, site, home = (tmp_path / name for name in ("datasets", "site", "home"))
    file = place(publish(tmp_path, imagenet_weights(), monkeypatch), datasets)
    (datasets / "MNIST").symlink_to((mnist / "MNIST").resolve())
    site.mkdir()
    (site / "sitecustomize.py").write_text(IN_THE_CATALOG.format(model=NAME, file=file.name))
    home.mkdir()
    spec: dict[str, Any] = {"model": NAME, "dataset": "mnist", "train_size": 8, "val_size": 20, "batch_size": 8,
                            "epochs": 3, "lr": 0.003, "precision": "fp32", "device": "cpu",
                            "model_options": {"backbone": "frozen", "image_size": 64}}  # fmt: skip
    with a_yard(home, DATASETS=str(datasets)) as yard:
        yard.env["PYTHONPATH"] = f"{site}{os.pathsep}{ROOT}"
        yard.add_worker(slots=1)
        run_id = yard.submit(**spec)
        run = yard.wait_state(run_id, "finished", "failed")
        assert run["state"] == "finished", run
        steps, losses = yard.series(run_id)
        _, accuracies = yard.series(run_id, "val/accuracy")
    loaded = load_weights(NAME, datasets)
    assert loaded is not None
    assert steps == [1, 2, 3]
    assert losses[0] == pytest.approx(
        first_loss(RunSpec(**spec), load_dataset("mnist", datasets), loaded), rel=1e-4
    )
    assert losses[2] < losses[0]
    assert len(accuracies) == 3
    newest = max((home / "runs" / run_id).glob("checkpoint-*.pt"))
    trained = torch.load(newest, weights_only=True)["model"]
    for name, weight in loaded.items():
        if not name.startswith("fc."):
            assert torch.equal(trained[f"net.{name}"], weight), name
    assert trained["net.fc.bias"].shape == (10,)


def test_training_without_the_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="ResNet-18 pretrained needs the weights"):
        list(train(RunSpec(model=NAME, dataset="digits"), digits(), device=CPU))
