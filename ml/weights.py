"""Pretrained weights: from the datasets folder, or from torchvision's address into it, whole and verified.

torchvision ends the name of each file with the first digits of its SHA-256. The file is read with `weights_only`: a
pickle that would run code is refused.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor
from torchvision.models import ResNet18_Weights

from ml.catalog import MODELS, Pretrained
from ml.download import Progress, SourceFailed, read_blocks, write_whole

SOURCES = {"resnet18-f37072fd.pth": ResNet18_Weights.IMAGENET1K_V1.url}


class WeightsUnavailable(ValueError):
    """The weights are neither on disk nor to be had, or are not what they should be; the message says what to do."""


def load_weights(model: str, root: Path, progress: Progress | None = None) -> dict[str, Tensor] | None:
    """The weights that a model of the catalog starts from, by name, on the CPU; None where it starts at random.

    `root` is the datasets folder; they lie in `weights` there, and are downloaded into it if they do not. `progress` is
    called with what goes on and the fraction done; it may raise, which ends the download cleanly.

    Raises:
        WeightsUnavailable: they cannot be had, are damaged, or hold more than weights.
    """
    entry = MODELS[model]
    if entry.pretrained is None:
        return None
    path = entry.pretrained.path_in(root)
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise WeightsUnavailable(f"{path} cannot be read ({error.strerror}). Make it readable.") from error
    if data is None:
        data = _download(entry.title, entry.pretrained, path, progress)
    elif not _fits(data, entry.pretrained):
        raise WeightsUnavailable(
            f"{path} is damaged or another file: its SHA-256 begins with {_digest(data)[:8]}. Delete it and start the "
            f"run again, which downloads it anew, or put the right one in its place."
        )
    return _read(data, path)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fits(data: bytes, wanted: Pretrained) -> bool:
    return _digest(data).startswith(wanted.sha256_prefix)


def _download(title: str, wanted: Pretrained, path: Path, progress: Progress | None) -> bytes:
    """The file's bytes, which then lie at `path` too."""
    _make_writable(title, wanted, path)
    blocks, done_bytes = [], 0
    try:
        for block in read_blocks(SOURCES[wanted.file]):
            blocks.append(block)
            done_bytes += len(block)
            if progress is not None:
                progress(f"Downloading {title}", min(done_bytes / (wanted.download_mb * 1e6), 1.0))
    except SourceFailed as error:
        why = f"could not be downloaded ({error})"
        _give_up(title, wanted, path, why)
    data = b"".join(blocks)
    if not _fits(data, wanted):
        why = "was downloaded with other content (its SHA-256 differs)"
        _give_up(title, wanted, path, why)
    write_whole(path, data)
    return data


def _make_writable(title: str, wanted: Pretrained, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        why = f"is not there, and nothing can be written there ({error.strerror})"
        _give_up(title, wanted, path, why)


def _give_up(title: str, wanted: Pretrained, path: Path, why: str) -> NoReturn:
    raise WeightsUnavailable(
        f"{title} starts from the weights in {wanted.file} ({wanted.download_mb} MB), which {why}. Put that file, as "
        f"torchvision publishes it, in {path.parent}, or choose the model resnet18, which starts at random."
    )


def _read(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors in a file of torch.save."""
    try:
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsUnavailable(
            f"{path} holds more than weights and was not opened, as that would run code. Delete it."
        ) from error
    except (RuntimeError, ValueError, KeyError, EOFError, AttributeError) as error:
        raise WeightsUnavailable(f"{path} is not a file of weights ({error}). Delete it.") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise WeightsUnavailable(f"{path} is not a file of weights (it holds something else). Delete it.")
    return weights
