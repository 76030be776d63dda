"""Which checkpoint files a trainer keeps while its flushes are late."""

from __future__ import annotations

from pathlib import Path

from app import runs
from app.db import Database
from app.series import make_block, read_blocks
from app.settings import Settings
from ml import checkpoint
from ml.events import Snapshot
from ml.spec import RunSpec
from worker.checkpoints import Checkpoints
from worker.job import Job
from worker.reporter import Reporter


def test_a_checkpoint_written_before_the_last_flush_is_through_stays(db: Database, tmp_path: Path) -> None:
    """The flush that points to one tidies up; the next one may lie there by then, and is none of what it removes."""
    with db.begin() as s:
        made, _ = runs.create_run(s, runs.NewRun(RunSpec(dataset="digits")), max_queued=10)
        run = runs.claim_run(s, made.id, "worker-1", 60)
    assert run is not None
    job = Job(run.id, run.attempt, run.seq, [0], "worker-1", run.spec, None, str(tmp_path / "log"))
    settings = Settings(data_dir=tmp_path, min_free_mb=0)
    reporter = Reporter(db, run.id, run.attempt, run.seq, lease_s=60, flush_s=0.05)
    kept = Checkpoints(job, settings, reporter)
    kept.folder.mkdir(parents=True)
    (kept.folder / ".checkpoint-0-5.pt.half").touch()  # what a killed attempt left
    for step in (10, 20, 30):  # none of their flushes is through
        kept.save(Snapshot(step, 1, {"step": step, "position": 0}), last=False)
    reporter.start()
    reporter.close()
    with db.read() as s:
        pointer = runs.get_run(s, run.id).checkpoint
    assert pointer is not None
    assert checkpoint.load(kept.folder / pointer["file"], pointer["sha256"])["step"] == 30
    assert sorted(path.name for path in kept.folder.iterdir()) == ["checkpoint-1-20.pt", "checkpoint-1-30.pt"]


def test_an_evaluation_that_is_still_to_come_is_forgotten(db: Database) -> None:
    """A checkpoint within an evaluation: the attempt that goes on from it evaluates again, and once is enough."""
    points = {name: make_block([1], [1.0], [0.5]) for name in ("train/loss", "val/accuracy")}
    pointer = {"file": "checkpoint-1-1.pt", "sha256": "", "step": 1, "epoch": 1}
    for evaluated in (True, False):
        with db.begin() as s:
            made, _ = runs.create_run(s, runs.NewRun(RunSpec(dataset="digits")), max_queued=10)
            run = runs.claim_run(s, made.id, "worker-1", 60)
            assert run is not None
            seen = {**pointer, "evaluated": evaluated}
            runs.report(s, run.id, 1, run.seq + 1, points, lease_s=60, step=1, checkpoint=seen)
            assert runs.release_run(s, run.id, 1, "worker-1", "the worker shuts down")
        with db.begin() as s:
            assert runs.claim_run(s, made.id, "worker-2", 60) is not None
            left = read_blocks(s, [made.id], list(points))
        assert {metric for (_, metric), block in left.items() if len(block.steps)} == (
            set(points) if evaluated else {"train/loss"}
        )
