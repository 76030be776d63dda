"""F13: the disk is full, for the checkpoints alone or for all, and gets room again."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from app import runs
from app.db import Database
from app.runs import NewRun
from app.settings import Settings
from ml import checkpoint
from ml.spec import RunSpec
from tests.faults.disks import can_mount, fill, limit_files, small_disk
from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, QUICK, Yard, a_yard
from tests.processes import wait_for
from worker.room import Room

TOO_SMALL = 50_000  # bytes: for a checkpoint, not for a log
GIB_OF_NOBODY = str(10**9)  # MB: no disk has that much left


def test_a_run_goes_on_without_checkpoints_that_have_no_room(postgres_ground: Yard, figures: Figures) -> None:
    """F13a disk full for checkpoints: the run trains on, says so once; to be paused it needs one."""
    yard = postgres_ground  # its files are on another disk, so to say
    with yard.worker(slots=2):
        run_id = yard.submit(LONG)
        yard.wait(run_id, lambda run: bool((run.checkpoint or {}).get("previous")), "two checkpoints")
        trainer = yard.trainer_of(run_id)
        limit_files([trainer], TOO_SMALL)
        yard.wait(run_id, lambda _: len(notes(yard, run_id, "without a checkpoint")) == 1, "the note")
        assert "disk full" in notes(yard, run_id, "without a checkpoint")[0]
        full = yard.run(run_id)
        yard.wait_steps(run_id, full.step + 20)
        still = yard.run(run_id).checkpoint
        assert still is not None
        for pointer in (still, still["previous"]):
            path = yard.directory / "runs" / run_id / pointer["file"]
            assert checkpoint.load(path, pointer["sha256"])["step"] == pointer["step"]

        figures.strike()
        limit_files([trainer])
        yard.wait_checkpoint(run_id, still["step"])
        figures.since(yard.backend, "checkpoint after room")
        yard.wait(run_id, lambda _: len(notes(yard, run_id, "written again")) == 1, "the good news")
        assert len(notes(yard, run_id, "without a checkpoint")) == 1

        limit_files([trainer], TOO_SMALL)
        yard.wait(run_id, lambda _: len(notes(yard, run_id, "without a checkpoint")) == 2, "the second note")
        yard.ask(run_id, "pause")
        failed = yard.wait_state(run_id, "failed", "paused")
        assert failed.state == "failed"
        assert "disk full" in (failed.error or "")
        assert (failed.error or "").endswith("free some space, then resume")
        yard.ask(run_id, "resume")  # by a trainer that has room
        yard.wait_steps(run_id, attempt=2)
        yard.cancel(run_id)
        assert assert_intact(yard, run_id).attempt == 2


@pytest.mark.parametrize("way", ["limit", "small disk"] if can_mount() else ["limit"])
def test_a_disk_that_is_full_for_all(way: str, tmp_path: Path, figures: Figures) -> None:
    """F13b disk full for all: 503 with what to do, the trainer keeps its points; with room all goes on by itself."""
    with (
        a_place(way, tmp_path) as directory,
        a_yard(directory, MIN_FREE_MB="0") as yard,
        yard.worker(slots=2),
    ):
        run_id = yard.submit(LONG)
        yard.wait_checkpoint(run_id)
        free = make_full(way, yard)
        wait_for(lambda: refused(yard), "a write to be refused", 60)
        stuck = yard.run(run_id)
        assert yard.http.get(f"/api/v1/runs/{run_id}").json()["state"] == "running"
        figures.strike()
        free()
        yard.wait_steps(run_id, stuck.step + 20)
        figures.since(yard.backend, f"points after room ({way})")
        yard.finish(yard.submit(QUICK))
        yard.cancel(run_id)
        run = assert_intact(yard, run_id)
        assert (run.attempt, run.failures) == (1, 0), yard.describe(run_id)
        with closing(sqlite3.connect(directory / "trainyard.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@contextmanager
def a_place(way: str, tmp_path: Path) -> Iterator[Path]:
    if way == "limit":
        yield tmp_path
    else:
        with small_disk(tmp_path):
            yield tmp_path


def make_full(way: str, yard: Yard) -> Callable[[], None]:
    """Nothing can be written any more until what this returns is called."""
    if way == "limit":
        limit_files(yard.processes(), 0)
        return lambda: limit_files(yard.processes())
    filler = fill(yard.directory)
    return filler.unlink


def refused(yard: Yard) -> bool:
    """A new run is; until the log of the database has no page left that may be written again, it may still be taken."""
    answer = yard.http.post("/api/v1/runs", json={"external": True})
    if answer.status_code == 201:
        return False
    assert answer.status_code == 503, answer.text
    assert "free some space" in answer.json()["error"]["message"]
    return int(answer.headers["retry-after"]) > 0


def test_a_worker_without_room_starts_nothing_and_says_so(yard: Yard, figures: Figures) -> None:
    """F13c too little room: the run stays queued and says why, as the worker does; one with room trains it."""
    with yard.worker(MIN_FREE_MB=GIB_OF_NOBODY) as short:
        run_id = yard.submit(QUICK)
        run = yard.wait(run_id, lambda run: "MB must stay free" in run.phase, "the note")
        assert run.state == "queued"
        (told,) = wait_for(lambda: [w for w in workers(yard) if w["note"]], "the worker's note")
        assert "free some space" in told["note"]
        assert told["name"] in run.phase
        page = yard.http.get("/workers").text
        assert "Starts no run: its disk has" in page
        assert "waits for worker" in yard.http.get(f"/runs/{run_id}").text
        assert "MB must stay free" in short.output()
        figures.strike()
        with yard.worker(slots=2):
            yard.finish(run_id)
            figures.since(yard.backend, "done by one with room")
            assert assert_intact(yard, run_id).attempt == 1


def test_a_worker_claims_as_soon_as_there_is_room(db: Database, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, min_free_mb=int(GIB_OF_NOBODY))
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(RunSpec()), max_queued=1)
    room, answers = Room(db, settings, "w"), list[bool]()
    waiting = threading.Thread(target=lambda: answers.append(room.wait(run.id, threading.Event())))
    waiting.start()
    wait_for(lambda: "waits for worker w" in phase(db, run.id), "the note")
    settings.min_free_mb = 0
    waiting.join(30)
    assert (answers, phase(db, run.id)) == ([True], "")


def phase(db: Database, run_id: str) -> str:
    with db.read() as s:
        return runs.get_run(s, run_id).phase


def notes(yard: Yard, run_id: str, text: str) -> list[str]:
    return [reason for reason in yard.reasons(run_id) if text in reason]


def workers(yard: Yard) -> list[dict[str, str]]:
    found: list[dict[str, str]] = yard.http.get("/api/v1/workers").json()["workers"]
    return found
