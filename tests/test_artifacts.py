"""Artifacts: the predictions' format, the flush that stores them, what a new attempt forgets, the routes."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import col, select

from app import artifacts, runs, series
from app.artifacts import LABELS, PREDICTIONS, NewArtifact
from app.db import Database
from app.errors import Fenced
from app.images import read_image, save_images, to_png
from app.migrate import migrate
from app.models import Artifact
from app.predictions import (
    LABELS_NAME,
    MEDIA_TYPE,
    Answers,
    Labels,
    Unreadable,
    predictions_name,
    read_answers,
    read_labels,
)
from app.runs import NewRun
from app.settings import Settings
from ml.catalog import DATASETS
from ml.data import VAL_SEED, load_dataset, subset
from ml.events import Evaluated, Evaluating, Event
from ml.spec import RunSpec
from worker.job import Job
from worker.trainer import Trainer

SMALL: dict[str, Any] = {"dataset": "digits", "train_size": 256, "val_size": 100, "epochs": 3, "lr": 0.05}


def claimed_run(db: Database) -> str:
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(RunSpec()), max_queued=10)
        assert runs.claim_run(s, run.id, "w", 20) is not None
    return run.id


def a_file(step: int, content: bytes = b"x", kind: str = PREDICTIONS) -> NewArtifact:
    return NewArtifact(predictions_name(step), kind, step, step, MEDIA_TYPE, content)


def accuracy(step: int, value: float) -> series.Points:
    return {"val/accuracy": series.make_block([step], [1.0], [value])}


def names(db: Database, run_id: str) -> list[str]:
    with db.read() as s:
        return [one.name for one in artifacts.list_artifacts(s, [run_id])[run_id]]


# -- the format -------------------------------------------------------------------------------------------------------


@given(data=st.data(), classes=st.sampled_from([2, 10, 256, 257, 1000]), n=st.integers(1, 60))
def test_what_is_packed_is_read_back(data: st.DataObject, classes: int, n: int) -> None:
    numbers = st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)
    label, predicted = np.array(data.draw(numbers)), np.array(data.draw(numbers))
    confidence = np.array(data.draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n)), np.float32)
    index = np.array(data.draw(st.permutations(range(n))))
    labels = Labels("0123456789abcdef", classes, index, label)
    again = read_labels(labels.pack())
    assert (again.val_digest, again.classes) == (labels.val_digest, classes)
    np.testing.assert_array_equal(again.index, index)
    np.testing.assert_array_equal(again.label, label)
    answers = read_answers(Answers(predicted, confidence).pack(labels), again)
    np.testing.assert_array_equal(answers.predicted, predicted)
    assert np.abs(answers.confidence - confidence).max() <= 0.0041
    near_one = confidence > 0.999
    assert not near_one.any() or np.abs(answers.confidence - confidence)[near_one].max() < 2e-4


def test_a_confidence_that_is_no_number_is_none() -> None:
    labels = Labels("0" * 16, 10, np.arange(2), np.array([3, 4]))
    packed = Answers(np.array([3, 5]), np.array([np.nan, 1.5], np.float32)).pack(labels)
    assert read_answers(packed, labels).confidence.tolist() == [0, 1]


@pytest.mark.parametrize("cut", [0, 5, 11, 40, -1])
def test_a_file_that_is_cut_short_is_refused(cut: int) -> None:
    packed = Labels("0" * 16, 10, np.arange(50), np.arange(50) % 10).pack()
    with pytest.raises(Unreadable, match="labels"):
        read_labels(packed[:cut])


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read_never_worse(place: int, byte: int) -> None:
    packed = bytearray(Labels("0" * 16, 10, np.arange(50)[::-1], np.arange(50) % 10).pack())
    packed[place % len(packed)] = byte
    try:
        labels = read_labels(bytes(packed))
    except Unreadable:
        return
    assert len(labels.label) == len(labels.index)


def test_predictions_of_other_images_are_refused() -> None:
    mine = Labels("0" * 16, 10, np.arange(3), np.array([1, 2, 3]))
    other = Labels("f" * 16, 10, np.arange(3), np.array([1, 2, 3]))
    packed = Answers(np.array([1, 2, 3]), np.ones(3, np.float32)).pack(mine)
    with pytest.raises(Unreadable, match="other images"):
        read_answers(packed, other)
    with pytest.raises(Unreadable, match="predictions"):
        read_answers(mine.pack(), mine)


# -- in the database --------------------------------------------------------------------------------------------------


def test_predictions_come_in_the_flush_that_holds_the_accuracy_and_only_once(db: Database) -> None:
    run_id = claimed_run(db)
    with db.begin() as s:
        runs.report(s, run_id, 1, 1, accuracy(10, 0.5), lease_s=20, files=[a_file(10, b"first")])
    with db.begin() as s:  # the same flush again: its commit was in doubt
        runs.report(s, run_id, 1, 1, accuracy(10, 0.5), lease_s=20, files=[a_file(10, b"first")])
    with db.read() as s:
        rows = s.exec(select(Artifact).where(col(Artifact.run_id) == run_id)).all()
    assert [(r.name, r.step, r.size_bytes, r.content) for r in rows] == [
        ("predictions-000010", 10, 5, b"first")
    ]
    assert rows[0].sha256 == hashlib.sha256(b"first").hexdigest()


def test_a_superseded_attempt_stores_nothing(db: Database) -> None:
    run_id = claimed_run(db)
    with pytest.raises(Fenced), db.begin() as s:
        runs.report(s, run_id, 2, 1, accuracy(10, 0.5), lease_s=20, files=[a_file(10)])
    assert names(db, run_id) == []


def test_a_flush_that_fails_leaves_neither_points_nor_files(db: Database) -> None:
    run_id = claimed_run(db)
    with db.begin() as s:
        runs.report(s, run_id, 1, 1, accuracy(10, 0.5), lease_s=20, files=[a_file(10)])
        s.rollback()  # the power is cut before the commit
    with db.read() as s:
        assert series.list_summaries(s, [run_id])[run_id] == []
    assert names(db, run_id) == []


def test_a_new_attempt_forgets_what_lies_behind_its_checkpoint(db: Database) -> None:
    run_id = claimed_run(db)
    labels = NewArtifact(LABELS_NAME, LABELS, 0, 0, MEDIA_TYPE, b"labels")
    pointer = {"file": "checkpoint-1-10.pt", "sha256": "0", "step": 10, "epoch": 1}
    with db.begin() as s:
        runs.report(
            s, run_id, 1, 1, accuracy(10, 0.5), lease_s=20, files=[labels, a_file(10)], checkpoint=pointer
        )
        runs.report(s, run_id, 1, 2, accuracy(20, 0.6), lease_s=20, files=[a_file(20, b"lost")])
        assert runs.release_run(s, run_id, 1, "w", "the worker shuts down")
        assert runs.claim_run(s, run_id, "w2", 20) is not None
    assert names(db, run_id) == [LABELS_NAME, "predictions-000010"]
    with db.begin() as s:
        runs.report(s, run_id, 2, 3, accuracy(20, 0.6), lease_s=20, files=[a_file(20, b"again")])
        found = artifacts.read_contents(s, {run_id: "predictions-000020"})
    assert found == {run_id: b"again"}


def test_deleting_a_run_deletes_its_artifacts(db: Database) -> None:
    run_id, other = claimed_run(db), claimed_run(db)
    with db.begin() as s:
        for one in (run_id, other):
            runs.report(s, one, 1, 1, accuracy(10, 0.5), lease_s=20, files=[a_file(10)])
        runs.end_run(s, run_id, 1, "finished", "w", "done")
    with db.begin() as s:
        runs.delete_run(s, run_id)
    assert names(db, run_id) == []
    assert names(db, other) == ["predictions-000010"]


def test_a_thousand_evaluations_are_thinned_out_but_keep_the_best_and_the_last(db: Database) -> None:
    run_id = claimed_run(db)
    most = 0
    for epoch in range(1, 301):
        value = 0.99 if epoch == 37 else 0.5 + epoch / 1000
        with db.begin() as s:
            runs.report(s, run_id, 1, epoch, accuracy(epoch, value), lease_s=20, files=[a_file(epoch)])
            kept = [one.epoch for one in artifacts.list_artifacts(s, [run_id], PREDICTIONS)[run_id]]
        most = max(most, len(kept))
        assert kept[-1] == epoch
        assert epoch < 37 or 37 in kept
    assert most <= artifacts.MAX_KEPT
    assert len(kept) > artifacts.MAX_KEPT // 4
    even = [epoch for epoch in kept if epoch not in (37, 300)]
    assert len({b - a for a, b in pairwise(even) if b < 256}) == 1, "evenly spread"


# -- a trainer --------------------------------------------------------------------------------------------------------


@contextmanager
def a_home(path: Path, **settings: Any) -> Iterator[tuple[Database, Settings]]:
    made = Settings(data_dir=path, **settings)
    migrate(made.database_url)
    db = Database(made.database_url)
    yield db, made
    db.dispose()


def submit(db: Database, **fields: Any) -> str:
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(RunSpec(**{**SMALL, **fields})), max_queued=10)
    return run.id


def train(db: Database, settings: Settings, run_id: str, stop_after: int | None = None) -> None:
    """One attempt by the worker's own trainer, in this process; it is told to stop after that epoch's evaluation."""
    with db.begin() as s:
        claimed = runs.claim_run(s, run_id, "w", 20)
    assert claimed is not None
    folder = settings.runs_dir / run_id
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        run_id, claimed.attempt, claimed.seq, [0], "w", claimed.spec, claimed.checkpoint, str(folder / "log")
    )
    stop = threading.Event()
    trainer = Trainer(job, settings, stop)
    record = trainer.record

    def watching(event: Event) -> None:
        if isinstance(event, Evaluated) and event.epoch == stop_after:
            stop.set()
        record(event)

    trainer.record = watching  # type: ignore[method-assign]
    trainer.run()


def contents(db: Database, run_id: str) -> dict[str, bytes]:
    with db.read() as s:
        rows = s.exec(select(Artifact).where(col(Artifact.run_id) == run_id)).all()
    return {row.name: row.content for row in rows}


def assert_exact(db: Database, run_id: str, images: int) -> None:
    """Accuracies from the artifacts are those of the series, to the last bit."""
    stored = contents(db, run_id)
    with db.read() as s:
        block = series.read_blocks(s, [run_id], ["val/accuracy"])[run_id, "val/accuracy"]
    labels = read_labels(stored[LABELS_NAME])
    assert len(labels.label) == images
    for step, value in zip(block.steps.tolist(), block.values.tolist(), strict=True):
        answers = read_answers(stored[predictions_name(step)], labels)
        assert int((answers.predicted == labels.label).sum()) / images == value
    assert len([name for name in stored if not name.startswith("logits-")]) == 1 + len(block.steps)
    best, last = block.steps[np.argmax(block.values)], block.steps[-1]
    logits = {
        name: np.load(io.BytesIO(content)) for name, content in stored.items() if name.startswith("logits-")
    }
    assert sorted(logits) == sorted({f"logits-{step:06d}.npy" for step in (best, last)})
    for name, found in logits.items():
        assert (found.shape, found.dtype) == ((images, 10), np.float16)
        answers = read_answers(stored[predictions_name(int(name[7:13]))], labels)
        chosen = found[np.arange(images), answers.predicted]
        assert (chosen == found.max(axis=1)).all()


@pytest.mark.parametrize(
    ("asked", "images"),
    [
        ({"val_size": 100}, 100),
        ({"val_size": None}, 360),
        ({"val_size": None, "val_from": "train"}, 143),
        ({"val_size": 100, "val_from": "train"}, 100),
    ],
)
def test_accuracy_from_the_artifacts_is_the_accuracy_of_the_series(
    tmp_path: Path, asked: dict[str, Any], images: int
) -> None:
    with a_home(tmp_path) as (db, settings):
        run_id = submit(db, **asked)
        train(db, settings, run_id)
        assert_exact(db, run_id, images)
        with db.read() as s:
            run = runs.get_run(s, run_id)
        labels = read_labels(contents(db, run_id)[LABELS_NAME])
    assert run.state == "finished"
    assert run.resolved["val_digest"] == labels.val_digest
    assert run.resolved["val_images"] == images
    assert [path.name for path in settings.images_dir.iterdir()] == [f"{labels.val_digest}.npy"]


@pytest.mark.slow
def test_accuracy_from_the_artifacts_is_exact_on_mnist_and_small(tmp_path: Path) -> None:
    root = Path(os.environ.get("TRAINYARD_DATASETS", "nowhere"))
    if not DATASETS["mnist"].on_disk(root):
        pytest.skip(
            "no MNIST: set TRAINYARD_DATASETS to a folder with MNIST/raw in it (torchvision's layout)"
        )
    with a_home(tmp_path, datasets=root) as (db, settings):
        run_id = submit(db, dataset="mnist", train_size=2000, val_size=None, epochs=1, precision="bf16")
        train(db, settings, run_id)
        assert_exact(db, run_id, 10_000)
        sizes = {name: len(content) for name, content in contents(db, run_id).items()}
    assert sizes.pop(LABELS_NAME) < 5_000
    assert max(size for name, size in sizes.items() if not name.startswith("logits-")) < 15_000
    assert sizes["logits-000032.npy"] < 201_000  # 10,000 images, 10 classes, 2 bytes


def test_a_run_that_was_interrupted_has_the_artifacts_of_an_undisturbed_one(tmp_path: Path) -> None:
    with a_home(tmp_path) as (db, settings):
        undisturbed, interrupted = submit(db), submit(db)
        train(db, settings, undisturbed)
        train(db, settings, interrupted, stop_after=1)
        train(db, settings, interrupted, stop_after=2)
        train(db, settings, interrupted)
        with db.read() as s:
            assert runs.get_run(s, interrupted).attempt == 3
            assert runs.get_run(s, interrupted).state == "finished"
        assert contents(db, interrupted) == contents(db, undisturbed)
        assert len(contents(db, undisturbed)) in (5, 6)  # labels, three answers, best and last logits


def test_a_disk_that_takes_no_images_does_not_end_the_training(tmp_path: Path) -> None:
    with a_home(tmp_path) as (db, settings):
        settings.images_dir.write_text("a file where the folder should be")
        run_id = submit(db, epochs=1)
        train(db, settings, run_id)
        assert_exact(db, run_id, 100)
        with db.read() as s:
            assert runs.get_run(s, run_id).state == "finished"


def test_the_stored_image_of_an_index_is_the_image_that_was_judged(tmp_path: Path) -> None:
    with a_home(tmp_path) as (db, settings):
        run_id = submit(db, epochs=1)
        train(db, settings, run_id)
        labels = read_labels(contents(db, run_id)[LABELS_NAME])
    data = load_dataset("digits", tmp_path)
    images, targets = subset(data.val_images, data.val_labels, 100, VAL_SEED)
    assert labels.label.tolist() == targets.tolist()
    for place in (0, 41, 99):
        image = read_image(settings.images_dir, labels.val_digest, int(labels.index[place]))
        assert image is not None
        np.testing.assert_array_equal(image[:, :, 0], images[place, 0].numpy())


def test_logits_that_are_too_large_are_not_kept_and_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.validation.MAX_LOGITS_BYTES", 1999)  # 100 images of 10 classes have 2000
    with a_home(tmp_path) as (db, settings):
        run_id, smaller = submit(db, epochs=3), submit(db, epochs=1, val_size=99)
        told = {}
        for one in (run_id, smaller):
            train(db, settings, one)
            with db.read() as s:
                told[one] = [e.reason for e in runs.list_events(s, one) if "logits" in e.reason]
        assert [name for name in contents(db, run_id) if name.startswith("logits")] == []
        assert told[run_id] == [  # once
            "the logits of 100 validation images are not kept: they take 0.002 MB an evaluation, and 0.001999 MB are "
            "the most; those of val_size 99 would be"
        ]
        assert told[smaller] == []
        assert [name for name in contents(db, smaller) if name.startswith("logits")] != []


def test_a_training_without_memory_says_what_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*args: object, **kwargs: object) -> Iterator[Event]:
        yield Evaluating(1, 0, 1)
        torch.empty(2**58, dtype=torch.uint8)  # what torch itself says then

    monkeypatch.setattr("worker.trainer.train", hungry)
    with a_home(tmp_path) as (db, settings):
        run_id = submit(db)
        train(db, settings, run_id)
        with db.read() as s:
            run = runs.get_run(s, run_id)
            reasons = [event.reason for event in runs.list_events(s, run_id)]
    assert run.state == "failed"
    assert str(run.error).startswith(
        "Out of memory at batch size 64: 268435456.0 GiB more were asked for, and "
    )
    assert str(run.error).endswith("(CPU). Try batch size 32, or a smaller model.")
    assert run.error in reasons


def test_a_run_that_stops_early_is_finished_and_says_why(tmp_path: Path) -> None:
    with a_home(tmp_path) as (db, settings):
        run_id = submit(db, epochs=20, lr=1e-6, patience=2, patience_metric="accuracy")
        train(db, settings, run_id)
        with db.read() as s:
            run = runs.get_run(s, run_id)
            reasons = [event.reason for event in runs.list_events(s, run_id)]
    assert (run.state, run.step < run.total_steps) == ("finished", True)
    assert run.checkpoint is not None
    assert run.checkpoint["step"] == run.step
    assert reasons[-1].startswith("stopped early: val/accuracy has been no better since epoch ")


# -- images -----------------------------------------------------------------------------------------------------------


def test_images_are_written_once_for_their_owner_alone(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4 * 1, dtype=np.uint8).reshape(2, 3, 4, 1)
    reads = []

    def read() -> np.ndarray[Any, np.dtype[np.uint8]]:
        reads.append(1)
        return images

    for _ in range(2):
        save_images(tmp_path / "images", "ab", read)
    assert len(reads) == 1
    assert (tmp_path / "images" / "ab.npy").stat().st_mode & 0o777 == 0o600
    found = read_image(tmp_path / "images", "ab", 1)
    assert found is not None
    np.testing.assert_array_equal(found, images[1])
    assert read_image(tmp_path / "images", "ab", 2) is None
    assert read_image(tmp_path / "images", "ab", -1) is None
    assert read_image(tmp_path / "images", "cd", 0) is None


def test_a_file_that_is_no_array_of_images_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "ab.npy").write_bytes(b"rubbish")
    assert read_image(tmp_path, "ab", 0) is None
    np.save(tmp_path / "cd.npy", np.zeros((2, 3, 4), np.float64))
    assert read_image(tmp_path, "cd", 0) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, channels), dtype=np.uint8)
    read = np.asarray(PIL.Image.open(io.BytesIO(to_png(image))))
    np.testing.assert_array_equal(read.reshape(image.shape), image)
