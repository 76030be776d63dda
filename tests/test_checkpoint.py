"""A checkpoint is whole and the same bytes, or it is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.checkpoint import CorruptCheckpoint, load, save

STATE: dict[str, Any] = {
    "step": 7,
    "order": torch.arange(5),
    "none": None,
    "nested": {"lr": [0.1, 0.2], "name": "a"},
}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    sha256 = save(path, STATE)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    back = load(path, sha256)
    assert torch.equal(back.pop("order"), STATE["order"])
    assert back == {k: v for k, v in STATE.items() if k != "order"}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_new_checkpoint_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    old = save(path, STATE)
    new = save(path, {**STATE, "step": 8})
    assert load(path, new)["step"] == 8
    with pytest.raises(CorruptCheckpoint, match=r"a\.pt is damaged"):
        load(path, old)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.pt"
    sha256 = save(path, STATE)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"truncate": bytes(data[:-10]), "flip": bytes(data), "empty": b""}[damage])
    with pytest.raises(CorruptCheckpoint, match="is damaged"):
        load(path, sha256)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match="cannot be read: No such file"):
        load(tmp_path / "gone.pt", "0" * 64)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    sha256 = save(path, STATE)

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save(path, {**STATE, "step": 8})
    assert load(path, sha256)["step"] == 7
    assert os.listdir(tmp_path) == ["a.pt"]


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sha256 = save(tmp_path / "a.pt", {"bomb": Bomb()})
    with pytest.raises(pickle.UnpicklingError):
        load(tmp_path / "a.pt", sha256)
    assert not (tmp_path / "exploded").exists()
