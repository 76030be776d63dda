"""F14, F15: checkpoints damaged on disk; the power goes, and with it what SQLite had not brought to the disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from app.models import Run
from tests.faults.figures import Figures
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, Json, Yard, a_yard, kill, wait_gone
from tests.processes import wait_for

Damage = Callable[[Path], None]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def test_a_damaged_checkpoint_costs_time_and_no_step(crewed: Yard, figures: Figures) -> None:
    """F14 torn checkpoint: the one before is used, and without any the run starts again; no step is lost or doubled."""
    run_id = crewed.submit(LONG)
    damages: list[tuple[Damage, bool]] = [
        (truncate, False),
        (flip, False),
        (Path.unlink, False),
        (truncate, True),
    ]
    for number, (damage, both) in enumerate(damages, 1):
        paused = pause(crewed, run_id, attempt=number)
        newest, older = paused["file"], paused["previous"]["file"]
        folder = crewed.directory / "runs" / run_id
        for name in (newest, older) if both else (newest,):
            damage(folder / name)
        figures.strike()
        crewed.ask(run_id, "resume")
        crewed.wait(run_id, partial(trains, number + 1), "the next attempt")
        figures.since(crewed.backend, "training again")
        told = [r for r in crewed.reasons(run_id) if "is damaged" in r or "cannot be read" in r][-1]
        expected = (
            "starts again from the beginning" if both else f"goes on from step {paused['previous']['step']:,}"
        )
        assert told.endswith(expected), told
    crewed.wait_steps(run_id, 5, attempt=len(damages) + 1)
    crewed.cancel(run_id)
    assert assert_intact(crewed, run_id).failures == 0


def trains(attempt: int, run: Run) -> bool:
    return run.attempt == attempt and run.phase == "training"


def pause(yard: Yard, run_id: str, *, attempt: int) -> Json:
    """The pointer of the run, paused with two checkpoints."""
    yard.wait(
        run_id,
        lambda run: run.attempt == attempt and bool((run.checkpoint or {}).get("previous")) and run.step > 0,
        "two checkpoints",
    )
    before = yard.run(run_id).checkpoint
    assert before is not None
    yard.wait_checkpoint(run_id, before["step"])
    yard.ask(run_id, "pause")
    pointer = yard.wait_state(run_id, "paused").checkpoint
    assert pointer is not None
    return pointer


def test_after_a_power_cut_the_run_goes_on_from_what_reached_the_disk(
    tmp_path: Path, figures: Figures
) -> None:
    """F15 power cut: all killed at once, the log of the database cut behind its last sync, one frame torn."""
    with a_yard(tmp_path, CHECKPOINT_S="2") as yard:
        with yard.worker(slots=2) as worker:
            run_id = yard.submit(LONG)
            yard.wait(run_id, lambda run: bool((run.checkpoint or {}).get("previous")), "two checkpoints")
            trainer = yard.trainer_of(run_id)
            seen: dict[str, int] = {}
            wait_for(
                lambda: stopped_between_checkpoints(yard, run_id, trainer, seen),
                "a flush after a checkpoint's",
                60,
            )
            all_of_them = [yard.web.process, worker]
            orphans = yard.family(worker)[1:]
            for process in all_of_them:
                os.kill(process.pid, signal.SIGKILL)
            for orphan in orphans:
                os.kill(orphan.pid, signal.SIGKILL)
            for process in all_of_them:
                kill(process)
            for orphan in orphans:
                wait_gone(orphan)
        before = yard.run(run_id)
        database_file = tmp_path / "trainyard.db"
        disk = [Path(f"{database_file}{suffix}") for suffix in ("", "-wal", "-shm")]
        kept = [path.read_bytes() for path in disk]
        yard.db.dispose()  # the last to close a database empties its log: what was there is put back
        for path, data in zip(disk, kept, strict=True):
            path.write_bytes(data)
        lost = cut_power(database_file, run_id)
        after = yard.run(run_id)
        assert lost > 0
        assert after.step < before.step, "nothing was lost: the cut shows nothing"
        assert after.checkpoint is not None
        assert after.checkpoint["step"] <= after.step
        assert yard.series(run_id)["train/loss"].steps.tolist() == list(range(1, after.step + 1))
        with closing(sqlite3.connect(database_file)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        figures.strike()
        yard.start_web()
        with yard.worker(slots=2):
            figures.recovered(yard, run_id)
            yard.cancel(run_id)
            assert_intact(yard, run_id)
        assert f"resumes from step {after.checkpoint['step']:,}" in yard.claims(run_id)[1].reason


def stopped_between_checkpoints(
    yard: Yard, run_id: str, trainer: psutil.Process, seen: dict[str, int]
) -> bool:
    """Stop it; let it go on unless a flush came after that of its newest checkpoint, and no sync since.

    `seen` keeps the flush with which each checkpoint was first seen.
    """
    trainer.suspend()
    run = yard.run(run_id)
    pointer = run.checkpoint["file"] if run.checkpoint else ""
    log = read_log(yard.directory / "trainyard.db")
    if pointer and run.seq > seen.setdefault(pointer, run.seq) and log.frames > log.copied:
        return True
    trainer.resume()
    return False


class Log(NamedTuple):
    """A write-ahead log (https://sqlite.org/fileformat2.html#walformat): frames, and how many are in the database."""

    frame_bytes: int
    frames: int
    copied: int


HEADER_BYTES = 32


def read_log(database: Path) -> Log:
    """Raises: AssertionError, when there is no log."""
    wal, shm = Path(f"{database}-wal"), Path(f"{database}-shm")
    _magic, _version, page_bytes = struct.unpack(">III", wal.read_bytes()[:12])
    index = shm.read_bytes()
    (frames,) = struct.unpack("=I", index[16:20])  # mxFrame: a log that was begun anew has older ones behind
    (copied,) = struct.unpack("=I", index[96:100])  # nBackfill: what was synced before it was copied
    return Log(24 + page_bytes, frames, copied)


def cut_power(database: Path, run_id: str) -> int:
    """Take from the log all frames that no sync has brought to the disk; how many.

    The last sync is that of the last checkpoint's pointer, or the one before the log was last copied. The first frame
    that is lost stays as a half, as the disk may have had it.
    """
    log, wal = read_log(database), Path(f"{database}-wal")
    pointer = pointer_in(database, log, log.frames, run_id)
    assert pointer is not None
    low, high = log.copied, log.frames  # the fewest frames that hold the newest pointer
    while low < high:
        middle = (low + high) // 2
        if pointer_in(database, log, middle, run_id) == pointer:
            high = middle
        else:
            low = middle + 1
    os.truncate(wal, HEADER_BYTES + low * log.frame_bytes + log.frame_bytes // 2)
    Path(f"{database}-shm").unlink()
    return log.frames - low


def pointer_in(database: Path, log: Log, frames: int, run_id: str) -> str | None:
    """The run's checkpoint as the database with that many frames of its log tells it."""
    folder = database.parent / "cut"
    folder.mkdir()
    try:
        copy = Path(shutil.copy(database, folder))
        wal = Path(shutil.copy(f"{database}-wal", folder))
        os.truncate(wal, HEADER_BYTES + frames * log.frame_bytes)
        with closing(sqlite3.connect(copy)) as connection:
            found = connection.execute("SELECT checkpoint FROM run WHERE id = ?", [run_id]).fetchone()
            return str(found[0]) if found else None
    finally:
        shutil.rmtree(folder)
