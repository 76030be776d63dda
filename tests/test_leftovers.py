"""Files of killed attempts go; those that anybody can go back to stay."""

from __future__ import annotations

from pathlib import Path

from app import runs
from app.db import Database
from app.leftovers import remove_leftovers
from ml.spec import RunSpec


def pointer(name: str, previous: str | None = None) -> dict[str, object]:
    older = None if previous is None else pointer(previous)
    return {"file": name, "sha256": "0" * 64, "step": 1, "epoch": 0, "previous": older}


def a_run(db: Database, folder: Path, checkpoint: dict[str, object] | None, *names: str) -> str:
    """Claimed for the first time, with these files in its folder."""
    with db.begin() as s:
        run, _ = runs.create_run(s, runs.NewRun(RunSpec()), max_queued=10)
        assert runs.claim_run(s, run.id, "here", 10) is not None
        runs.report(s, run.id, 1, 1, {}, lease_s=10, checkpoint=checkpoint)
    (folder / run.id).mkdir()
    for name in names:
        (folder / run.id / name).write_bytes(b"x")
    return run.id


def files(folder: Path, run_id: str) -> set[str]:
    return {path.name for path in (folder / run_id).iterdir()}


def test_only_what_the_row_points_to_stays_of_an_attempt(db: Database, tmp_path: Path) -> None:
    kept = {"checkpoint-1-20.pt", "checkpoint-1-10.pt", "attempt-1.log"}
    run_id = a_run(
        db, tmp_path, pointer("checkpoint-1-20.pt", "checkpoint-1-10.pt"),
        *kept, "checkpoint-1-5.pt", "checkpoint-1-30.pt", ".checkpoint-1-40.pt.k2f9",
    )  # fmt: skip
    remove_leftovers(db, tmp_path, run_id, 1)
    assert files(tmp_path, run_id) == kept


def test_a_later_attempt_is_left_alone(db: Database, tmp_path: Path) -> None:
    """It has written a file, and is writing another, that the row cannot know yet."""
    kept = {"checkpoint-1-20.pt", "checkpoint-2-30.pt", ".checkpoint-2-40.pt.k2f9"}
    run_id = a_run(db, tmp_path, pointer("checkpoint-1-20.pt"), *kept, "checkpoint-1-25.pt")
    remove_leftovers(db, tmp_path, run_id, 1)
    assert files(tmp_path, run_id) == kept
    remove_leftovers(db, tmp_path, run_id, 2)
    assert files(tmp_path, run_id) == {"checkpoint-1-20.pt"}


def test_nothing_is_touched_without_a_row_or_a_folder(db: Database, tmp_path: Path) -> None:
    remove_leftovers(db, tmp_path, "elsewhere", 1)
    (tmp_path / "deleted").mkdir()
    (tmp_path / "deleted" / "checkpoint-1-1.pt").write_bytes(b"x")
    remove_leftovers(db, tmp_path, "deleted", 1)
    assert files(tmp_path, "deleted") == {"checkpoint-1-1.pt"}


def test_a_run_without_a_checkpoint_keeps_none(db: Database, tmp_path: Path) -> None:
    run_id = a_run(db, tmp_path, None, "checkpoint-1-3.pt")
    remove_leftovers(db, tmp_path, run_id, 1)
    assert files(tmp_path, run_id) == set()
