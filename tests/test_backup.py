"""Backup while it trains, restore elsewhere; and what is no backup is refused."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest

from app.archive import DATABASE, MANIFEST, Manifest
from app.backup import make_backup, name_target
from app.errors import Conflict, Invalid, Unavailable
from app.restore import restore_backup
from app.settings import Settings
from tests import processes
from tests.processes import Web, redis_server, run_command, trainyard_env, wait_for

TRAINYARD = [sys.executable, "-m", "trainyard"]
LONG = {
    "dataset": "digits",
    "train_size": 512,
    "val_size": 64,
    "epochs": 30,
    "batch_size": 16,
    "device": "cpu",
}
SHORT = {**LONG, "epochs": 1}
Json = dict[str, Any]


def backup(data_dir: Path, target: Path, *more: str) -> CompletedProcess[str]:
    return run_command([*TRAINYARD, "backup", target, "--data-dir", data_dir, *more])


def restore(archive: Path, data_dir: Path) -> CompletedProcess[str]:
    return run_command([*TRAINYARD, "restore", archive, "--data-dir", data_dir])


def make(data_dir: Path, target: Path, **options: bool) -> Manifest:
    """As the command, in this process: a process takes seconds to start."""
    return make_backup(Settings(data_dir=data_dir), name_target(target), **options)


@contextmanager
def serving(data_dir: Path, logs: Path) -> Iterator[httpx.Client]:
    """Web process and worker on a data directory, with a Redis of their own."""
    with redis_server(logs) as redis:
        env = trainyard_env(data_dir, broker_url=redis.broker_url, CHECKPOINT_S="1", LEASE_S="5")
        processes.migrate(env)
        with (
            processes.web_process(env, directory=logs) as web,
            processes.worker_process(env, 2, directory=logs),  # a thread each: quicker beside others
            client(web) as http,
        ):
            yield http


def client(web: Web) -> httpx.Client:
    return httpx.Client(base_url=web.url, trust_env=False, timeout=30)


def submit(http: httpx.Client, spec: Json) -> str:
    return str(http.post("/api/v1/runs", json={"spec": spec}).json()["id"])


def read(http: httpx.Client, run_id: str) -> Json:
    return dict(http.get(f"/api/v1/runs/{run_id}").json())


def pointer_of(data_dir: Path, run_id: str) -> Json:
    with closing(sqlite3.connect(data_dir / DATABASE)) as connection:
        [text] = connection.execute("SELECT checkpoint FROM run WHERE id = ?", [run_id]).fetchone()
    return dict(json.loads(text or "{}") or {})


def series(http: httpx.Client, run_id: str) -> Json:
    """All points of the run's metrics, without their times."""
    found = {}
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        params = {"run": run_id, "metric": metric, "points": 2000}
        [one] = http.get("/api/v1/series", params=params).json()["series"]
        found[metric] = (one["total"], one["step"], one["value"])
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)  # half a minute on a machine with nothing else to do
def test_a_run_that_trains_during_the_backup_ends_the_same_after_a_restore(tmp_path: Path) -> None:
    data, again, archive = tmp_path / "data", tmp_path / "again", tmp_path / "yard.tar.gz"
    with serving(data, tmp_path) as http:
        run_id, other = submit(http, LONG), submit(http, SHORT)
        wait_for(lambda: pointer_of(data, run_id).get("step", 0) > 30, "a checkpoint", 280)
        made = make(data, archive)
        assert made.runs["running"] >= 1
        assert made.missing == []
        assert read(http, run_id)["state"] == "running"
        wait_for(lambda: read(http, run_id)["state"] == "finished", "the undisturbed run", 280)
        undisturbed = series(http, run_id)

    assert archive.stat().st_mode & 0o777 == 0o600
    assert not list(data.glob(".backup-*"))
    brought = restore(archive, again)
    assert brought.returncode == 0, brought.stderr
    assert f"{made.runs['running']} that trained then wait" in brought.stdout
    pointer = pointer_of(again, run_id)
    file = again / "runs" / run_id / pointer["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == pointer["sha256"]
    assert {path.stat().st_mode & 0o077 for path in (again, *again.rglob("*"))} == {0}

    with serving(again, tmp_path) as http:
        wait_for(lambda: read(http, run_id)["state"] == "finished", "the restored run", 280)
        assert series(http, run_id) == undisturbed
        events = read(http, run_id)["events"]
        assert any(event["actor"] == "restore" and event["to"] == "queued" for event in events)
        assert not any("stopped answering" in event["reason"] for event in events)
        wait_for(lambda: read(http, other)["state"] == "finished", "the other run", 280)


@pytest.fixture
def yard(tmp_path: Path, migrated_file: Path) -> Path:
    """A data directory in which nothing runs, with a finished and a paused run and their files."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(migrated_file, data / DATABASE)
    for run_id, state, files in (
        ("r1", "finished", ["checkpoint-1-9.pt"]),
        ("r2", "paused", ["checkpoint-1-5.pt"]),
    ):
        folder = data / "runs" / run_id
        folder.mkdir(parents=True)
        pointer = None
        for name in files:
            (folder / name).write_bytes(f"{run_id}{name}".encode())
            pointer = {"file": name, "sha256": "0" * 64, "step": 5, "epoch": 1, "previous": pointer}
        (folder / "attempt-1.log").write_text("trained")
        (folder / "checkpoint-1-1.pt").write_text("nobody points here")
        insert_run(data / DATABASE, run_id, state, pointer)
    (data / "images").mkdir()
    (data / "images" / "abc.npy").write_bytes(b"images")
    return data


def insert_run(database: Path, run_id: str, state: str, pointer: Json | None) -> None:
    row = {
        "id": run_id, "name": run_id, "kind": "training", "tags": "[]", "notes": "", "spec": "{}", "resolved": "{}",
        "state": state, "attempt": 1, "failures": 0, "cancel_requested": 0, "pause_requested": 0, "phase": "",
        "not_before": 0, "created_at": 1, "queued_at": 1, "updated_at": 1, "revision": 1, "seq": 0, "step": 5,
        "total_steps": 9, "epoch": 1, "steps_per_epoch": 5, "checkpoint": pointer and json.dumps(pointer),
    }  # fmt: skip
    with closing(sqlite3.connect(database)) as connection:
        names = ", ".join(row)
        connection.execute(
            f"INSERT INTO run ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values())
        )
        connection.commit()


def names_in(archive: Path) -> set[str]:
    with tarfile.open(archive) as tar:
        return set(tar.getnames())


def test_a_backup_holds_what_rows_point_to_and_nothing_else(yard: Path, tmp_path: Path) -> None:
    whole, light = tmp_path / "whole.tar", tmp_path / "light.tar"
    make(yard, whole)
    make(yard, light, without_finished=True)

    expected = {DATABASE, MANIFEST, "images/abc.npy", "runs/r1/attempt-1.log", "runs/r2/attempt-1.log"}
    assert names_in(whole) == expected | {"runs/r1/checkpoint-1-9.pt", "runs/r2/checkpoint-1-5.pt"}
    assert names_in(light) == expected | {"runs/r2/checkpoint-1-5.pt"}


def test_a_checkpoint_that_is_elsewhere_is_named(yard: Path, tmp_path: Path) -> None:
    (yard / "runs" / "r2" / "checkpoint-1-5.pt").unlink()
    ended = backup(yard, tmp_path / "a.tar")
    assert ended.returncode == 0, ended.stderr
    assert "runs/r2/checkpoint-1-5.pt" in ended.stderr


def test_a_backup_replaces_no_file_and_needs_a_database(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "there.tar").write_text("precious")
    with pytest.raises(Conflict, match="exists"):
        make(yard, tmp_path / "there.tar")
    with pytest.raises(Invalid, match="no database"):
        make(tmp_path / "nowhere", tmp_path / "a.tar")
    with pytest.raises(Invalid, match="no folder"):
        make(yard, tmp_path / "no" / "a.tar")
    make(yard, tmp_path)
    assert len(list(tmp_path.glob("trainyard-*.tar"))) == 1
    assert (tmp_path / "there.tar").read_text() == "precious"


def test_a_postgres_is_backed_up_by_its_own_tool(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url="postgresql://me:hidden@db.example/trainyard")
    with pytest.raises(Invalid, match="pg_dump") as refused:
        make_backup(settings, tmp_path / "a.tar")
    assert "hidden" not in str(refused.value)


def test_a_damaged_database_is_not_backed_up(yard: Path, tmp_path: Path) -> None:
    with (yard / DATABASE).open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 4)
    with pytest.raises(Unavailable, match=r"damaged|malformed"):
        make(yard, tmp_path / "a.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert not list(yard.glob(".backup-*"))


def test_a_directory_in_use_or_with_something_in_it_is_not_overwritten(yard: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    make(yard, archive)
    refused = restore(archive, yard)
    assert (refused.returncode, "is not empty" in refused.stderr) == (1, True)
    with (yard / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="`trainyard up` uses"):
            restore_backup(archive, yard)
    (tmp_path / "empty").mkdir()
    restore_backup(archive, tmp_path / "empty")


def flip(data: bytes) -> bytes:
    place = data.index(b"r2checkpoint-1-5.pt")
    return data[:place] + b"X" + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda data: data[: len(data) // 2],
        lambda data: data[: data.index(MANIFEST.encode())],
        lambda _: b"no tar",
    ],
)
def test_a_damaged_archive_is_refused_and_leaves_nothing(
    yard: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    archive = tmp_path / "a.tar"
    make(yard, archive)
    archive.write_bytes(damage(archive.read_bytes()))
    before = set(tmp_path.iterdir())
    with pytest.raises(Invalid, match=str(archive)):
        restore_backup(archive, tmp_path / "again")
    assert set(tmp_path.iterdir()) == before


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size
    return made


@pytest.mark.parametrize(
    "evil",
    [
        member("../canary"),
        member("/tmp/canary"),
        member("runs/r1/../../../canary"),
        member("runs/r1/checkpoint-1-1.pt", tarfile.SYMTYPE, "../../../canary"),
        member("runs/r1/checkpoint-1-1.pt", tarfile.LNKTYPE, "../canary"),
        member("runs/r1/a", tarfile.CHRTYPE),
        member("runs/r1/a", tarfile.FIFOTYPE),
        member("runs/r1", tarfile.DIRTYPE),
        member("up.lock"),
        member("runs/r1/.hidden"),
        member("runs/r1/a\nb"),
        member(DATABASE),
        member("runs/r1/huge.pt", size=1 << 50),
    ],
    ids=lambda evil: f"{evil.name!r} {evil.type!r}",
)
def test_what_does_not_belong_in_a_backup_is_refused(
    yard: Path, tmp_path: Path, evil: tarfile.TarInfo
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    good, bad = tmp_path / "good.tar", tmp_path / "bad.tar"
    make(yard, good)
    with tarfile.open(good) as source, tarfile.open(bad, "w") as target:
        for one in source:
            if one.name == MANIFEST:
                target.addfile(evil, io.BytesIO(b"") if not evil.size else None)
            target.addfile(one, source.extractfile(one))

    with pytest.raises(Invalid):
        restore_backup(bad, tmp_path / "inner" / "again")

    assert canary.read_text() == "alive"
    assert os.listdir(tmp_path / "inner") == []


def test_a_backup_of_a_newer_version_is_refused(yard: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    with closing(sqlite3.connect(yard / DATABASE)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    make(yard, archive)
    with pytest.raises(Invalid, match="newer version"):
        restore_backup(archive, tmp_path / "again")
