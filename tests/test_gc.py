"""What `trainyard gc` finds and deletes, and what it never touches. On both databases."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from app.db import Database
from app.errors import Invalid
from app.gc import read_days
from app.models import (
    CANCELED,
    FAILED,
    FINISHED,
    PAUSED,
    QUEUED,
    RUNNING,
    Artifact,
    MetricBatch,
    MetricSummary,
    Run,
)
from app.retention import Collector, Limits, Share
from app.settings import Settings
from tests.processes import run_command, trainyard_env

DAY_S = 86_400.0
ALL = Limits(checkpoints_days=7, weights_days=None, logs_days=7, predictions_days=7, logits_days=7)


@dataclass
class Yard:
    db: Database
    settings: Settings

    def add(self, run_id: str, state: str, *, age_days: float = 100, **values: Any) -> Path:
        """A run that ended so long ago, with two checkpoints, a stray one, a log, and three evaluations."""
        at = time.time() - age_days * DAY_S
        older = {"file": "checkpoint-1-5.pt", "sha256": "0", "step": 5, "epoch": 1}
        pointer = {"file": "checkpoint-1-10.pt", "sha256": "0", "step": 10, "epoch": 2, "previous": older}
        row = {
            "id": run_id,
            "name": run_id,
            "state": state,
            "created_at": at,
            "queued_at": at,
            "updated_at": at,
        }
        row |= {"ended_at": at, "checkpoint": pointer, "resolved": {"val_digest": f"images-of-{run_id}"}}
        with self.db.begin() as s:
            s.add(Run(**{**row, **values}))
            s.flush()
            s.add(
                MetricSummary(
                    run_id=run_id,
                    metric="val/accuracy",
                    count=3,
                    nonfinite=0,
                    last_step=3,
                    max=0.9,
                    max_step=2,
                )
            )
            s.add(MetricBatch(run_id=run_id, batch="b", at=at))
            for step in (1, 2, 3):
                s.add(
                    Artifact(
                        run_id=run_id, name=f"predictions-{step}.bin", kind="predictions", step=step, epoch=step,
                        media_type="application/octet-stream", size_bytes=4, sha256="0", created_at=at, content=b"1234",
                    )
                )  # fmt: skip
        folder = self.settings.runs_dir / run_id
        folder.mkdir(parents=True)
        for name in ("checkpoint-1-10.pt", "checkpoint-1-5.pt", "checkpoint-1-1.pt", "attempt-1.log"):
            (folder / name).write_bytes(b"x" * 1000)
        (folder / ".checkpoint-1-12.pt.abc").write_bytes(b"x" * 1000)
        for path in (*folder.iterdir(), folder):
            os.utime(path, (at, at))
        return folder

    def collect(self, limits: Limits = ALL, *, really: bool = True) -> dict[str, Share]:
        shares = Collector(self.db, self.settings, limits, really=really).collect()
        return {share.what: share for share in shares}

    def run(self, run_id: str) -> Run | None:
        with self.db.read() as s:
            return s.get(Run, run_id)

    def evaluations(self, run_id: str) -> list[int]:
        with self.db.read() as s:
            query = select(Artifact.step).where(col(Artifact.run_id) == run_id).order_by(col(Artifact.step))
            return list(s.exec(query))


@pytest.fixture
def yard(db: Database, tmp_path: Path) -> Yard:
    return Yard(db, Settings(data_dir=tmp_path / "data"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_old_run_keeps_its_last_weights_and_its_best_and_last_evaluation(yard: Yard) -> None:
    folder = yard.add("old", FINISHED, idempotency_key="k", request_digest="d")
    young = yard.add("young", FINISHED, age_days=0.5, idempotency_key="l")

    shares = yard.collect()

    assert names(folder) == {"checkpoint-1-10.pt"}
    assert yard.evaluations("old") == [2, 3]
    run = yard.run("old")
    assert run is not None
    assert run.checkpoint is not None
    assert "previous" not in run.checkpoint
    assert (run.idempotency_key, run.request_digest) == (None, None)
    assert len(names(young)) == 5
    assert yard.evaluations("young") == [1, 2, 3]
    assert shares["checkpoints before the last"] == Share("checkpoints before the last", 2, 2000)
    assert shares["logs of attempts"].bytes == 1000
    assert shares["predictions but the best and the last"] == Share(
        "predictions but the best and the last", 1, 4
    )
    assert shares["temporary files left behind"].count == 1
    assert shares["numbers of repeated requests"].count == 2  # the key and the batch


def test_without_yes_nothing_changes_and_the_numbers_are_the_same(yard: Yard) -> None:
    folder = yard.add("old", FINISHED)
    limits = Limits(checkpoints_days=7, weights_days=None, logs_days=7, predictions_days=7)
    told = yard.collect(limits, really=False)
    assert len(names(folder)) == 5
    assert yard.evaluations("old") == [1, 2, 3]
    assert yard.collect(limits) == told
    assert sum(share.count for share in yard.collect(limits).values()) == 0


@pytest.mark.parametrize("state", [QUEUED, RUNNING, PAUSED])
def test_what_has_not_ended_is_never_touched(yard: Yard, state: str) -> None:
    folder = yard.add("alive", state, idempotency_key="k")
    before = yard.run("alive")
    everything = Limits(0, 0, 0, 0, 0, 0)
    yard.collect(everything)
    assert len(names(folder)) == 5
    assert yard.evaluations("alive") == [1, 2, 3]
    after = yard.run("alive")
    assert before is not None
    assert after is not None
    assert after.model_dump() == before.model_dump()


def test_logits_go_with_the_years(yard: Yard) -> None:
    yard.add("old", FINISHED)
    with yard.db.begin() as s:
        for step in (2, 3):
            s.add(
                Artifact(
                    run_id="old", name=f"logits-{step}.npy", kind="logits", step=step, epoch=step,
                    media_type="application/octet-stream", size_bytes=8, sha256="0", created_at=0, content=b"12345678",
                )
            )  # fmt: skip
    shares = yard.collect(Limits(logits_days=101))
    assert shares["logits of validation sets"].count == 0
    assert yard.collect(ALL)["logits of validation sets"] == Share("logits of validation sets", 2, 16)
    assert yard.evaluations("old") == [2, 3]  # the predictions stay


def test_weights_go_when_asked_and_the_row_knows(yard: Yard) -> None:
    folder = yard.add("old", FAILED)
    yard.collect(Limits(weights_days=30))
    assert not any("checkpoint-" in name for name in names(folder))
    run = yard.run("old")
    assert run is not None
    assert run.checkpoint is None


def test_whole_runs_go_by_age_and_state(yard: Yard) -> None:
    gone, kept, young = yard.add("a", CANCELED), yard.add("b", FINISHED), yard.add("c", FAILED, age_days=10)
    shares = yard.collect(Limits(None, None, None, None, None, 90, (CANCELED, FAILED)))
    assert (gone.exists(), kept.exists(), young.exists()) == (False, True, True)
    assert yard.run("a") is None
    assert yard.evaluations("a") == []
    assert shares["whole runs"].count == 1
    assert shares["whole runs"].bytes >= 5000


def test_folders_and_images_without_a_run_go_when_they_are_not_young(yard: Yard) -> None:
    yard.add("known", FINISHED, age_days=1)
    runs, images = yard.settings.runs_dir, yard.settings.images_dir
    images.mkdir()
    old = time.time() - 2 * DAY_S
    for path in (runs / "gone", runs / "new"):
        path.mkdir()
        (path / "attempt-1.log").write_text("x")
    for name in ("images-of-known.npy", "images-of-gone.npy", ".images-of-gone.npy.tmp"):
        (images / name).write_text("x")
        os.utime(images / name, (old, old))
    os.utime(runs / "gone", (old, old))
    (runs / "link").symlink_to(images)
    staging = yard.settings.data_dir / ".backup-abc"
    staging.mkdir()
    os.utime(staging, (old, old))

    yard.collect()

    assert names(runs) == {"known", "new", "link"}
    assert names(images) == {"images-of-known.npy"}
    assert not staging.exists()


def test_folders_stay_when_the_database_looks_like_another(yard: Yard) -> None:
    old = time.time() - 2 * DAY_S
    for number in range(12):
        (yard.settings.runs_dir / f"r{number}").mkdir(parents=True)
        os.utime(yard.settings.runs_dir / f"r{number}", (old, old))
    collector = Collector(yard.db, yard.settings, ALL, really=True)
    collector.collect()
    assert len(names(yard.settings.runs_dir)) == 12
    assert "is it the right one?" in collector.notes[0]


@pytest.mark.parametrize(
    ("text", "days"), [("12h", 0.5), ("90d", 90), ("2w", 14), ("0d", 0), ("never", None)]
)
def test_times_are_read(text: str, days: float | None) -> None:
    assert read_days(text, "--x") == days


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "nand", "infd", "1e9d", "soon"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(Invalid, match="--x"):
        read_days(text, "--x")


def test_the_command_tells_deletes_and_refuses(tmp_path: Path, migrated_file: Path) -> None:
    env = trainyard_env(tmp_path)
    database = Database(f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'trainyard.db')}")
    folder = Yard(database, Settings(data_dir=tmp_path)).add("old", FINISHED)
    database.dispose()
    gc = [sys.executable, "-m", "trainyard", "gc"]

    told = run_command(gc, env=env)
    assert told.returncode == 0, told.stderr
    assert "Nothing was deleted; do it with --yes." in told.stdout
    assert len(names(folder)) == 5
    done = run_command([*gc, "--yes", "--json", "--vacuum"], env=env)
    assert json.loads(done.stdout)["bytes"] > 2000
    assert "checkpoint-1-5.pt" not in names(folder)
    refused = run_command([*gc, "--runs-older-than", "1d", "--state", "running"], env=env)
    assert refused.returncode == 2
    assert "--state running" in refused.stderr
