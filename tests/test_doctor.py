"""What `trainyard doctor` finds, each fault made for real."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic import command

from app import queue
from app.db import Database
from app.doctor import services, storage
from app.doctor.__main__ import examine
from app.doctor.datasets import check_datasets, describe_damage
from app.doctor.finding import Finding
from app.doctor.services import check_clock, check_server, check_workers
from app.doctor.storage import check_data_dir, check_database, check_disk
from app.doctor.training import check_packages
from app.migrate import alembic_config
from app.models import QUEUED, RUNNING, Run
from app.mounts import network_kind
from app.settings import Settings
from app.workers import say_present
from ml.registrar import Wanted, add_dataset
from tests.processes import Redis, free_port, redis_server, run_command, trainyard_env

Check = Any


@pytest.fixture
def settings(tmp_path: Path, migrated_file: Path) -> Settings:
    """A data directory with a sound database, in which nothing runs."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    shutil.copy(migrated_file, folder / "trainyard.db")
    Database(f"sqlite:///{folder / 'trainyard.db'}").ping()  # sets its journal
    return Settings(data_dir=folder, port=free_port())


def find(check: Check, settings: Settings) -> list[Finding]:
    return list(examine(check, settings))


def levels(check: Check, settings: Settings) -> list[str]:
    return [finding.level for finding in find(check, settings)]


def test_all_is_well_where_nothing_is_wrong(settings: Settings) -> None:
    for check in (
        check_data_dir,
        check_disk,
        check_database,
        check_server,
        check_clock,
        check_workers,
        check_packages,
    ):
        found = find(check, settings)
        assert {finding.level for finding in found} <= {"ok", "warning"}, found


def test_a_directory_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "none" / "yet")
    assert (
        levels(check_data_dir, settings)
        == levels(check_database, settings)
        == levels(check_disk, settings)
        == ["ok"]
    )
    assert not settings.data_dir.exists()


def test_others_may_not_look_into_the_data(settings: Settings) -> None:
    settings.data_dir.chmod(0o755)
    [finding] = find(check_data_dir, settings)
    assert (finding.level, finding.remedy) == ("warning", f"chmod 700 {settings.data_dir}")


def test_a_disk_below_what_must_stay_free_is_a_problem(settings: Settings) -> None:
    settings.min_free_mb = 10**9
    [finding] = find(check_disk, settings)
    assert finding.level == "problem"
    assert "trainyard gc" in finding.remedy


def test_an_old_schema_and_one_of_the_future_are_told_apart(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    command.upgrade(alembic_config(settings.database_url), "0003")
    assert ("problem", "trainyard migrate") in {(f.level, f.remedy) for f in find(check_database, settings)}
    with closing(sqlite3.connect(tmp_path / "trainyard.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    assert any("newer version" in finding.found for finding in find(check_database, settings))


def test_a_locked_database_is_told_with_who_to_look_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LOCK_S", 0.1)
    with closing(sqlite3.connect(settings.data_dir / "trainyard.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = find(check_database, settings)
    assert any(f.level == "problem" and "locked" in f.found and "fuser" in f.remedy for f in found)


def test_a_damaged_database_is_told(settings: Settings) -> None:
    path = settings.data_dir / "trainyard.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096 * 4)
        file.write(b"\xff" * 4096 * 6)
    found = find(check_database, settings)
    assert any(f.level == "problem" and "damaged" in f.found for f in found), found


def test_a_network_file_system_is_known_by_its_mount() -> None:
    mounts = [("/", "ext4"), ("/srv", "nfs4"), ("/srv/local", "xfs"), ("/mnt/share", "cifs")]
    assert network_kind(Path("/srv/data"), mounts) == "nfs4"
    assert network_kind(Path("/srv/local/data"), mounts) is None
    assert network_kind(Path("/mnt/share/x"), mounts) == "cifs"
    assert network_kind(Path("/srvdata"), mounts) is None


def test_postgres_is_looked_at(db: Database, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=db.url.render_as_string(hide_password=False))
    found = find(check_database, settings)
    assert {f.level for f in found} == {"ok"}, found
    assert {f.level for f in find(check_clock, settings)} == {"ok"}


def test_another_program_on_the_port_is_told_from_ours(settings: Settings) -> None:
    with HTTPServer(("127.0.0.1", settings.port), BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            [finding, *_] = find(check_server, settings)
        finally:
            other.shutdown()
            thread.join()
    assert finding.level == "problem"
    assert "something else answers" in finding.found


def add_run(settings: Settings, **values: Any) -> None:
    database = Database(settings.database_url)
    row = {"id": "r", "name": "r", "created_at": 1.0, "queued_at": 1.0, "updated_at": 1.0}
    with database.begin() as s:
        s.add(Run(**{**row, **values}))
    database.dispose()


def test_runs_that_wait_without_a_worker_are_a_problem(settings: Settings) -> None:
    add_run(settings, state=QUEUED)
    assert any(f.level == "problem" and "1 runs wait" in f.found for f in find(check_workers, settings))
    database = Database(settings.database_url)
    with database.begin() as s:
        say_present(s, "w", 2, ["CPU"], [])
    database.dispose()
    assert any(f.level == "problem" and "2 slots are free" in f.found for f in find(check_workers, settings))


def test_a_run_that_nobody_has_is_told(settings: Settings) -> None:
    add_run(settings, state=RUNNING, lease_until=1.0)
    assert any(
        f.level == "warning" and "no worker has them: r" in f.found for f in find(check_workers, settings)
    )


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with redis_server(tmp_path_factory.mktemp("redis"), password="secret-of-redis") as server:
        yield server


def test_the_broker_is_asked_for_what_it_does_when_full(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.broker_url = redis.broker_url
    monkeypatch.setattr(queue, "publisher", queue.make_celery(redis.broker_url, socket_timeout=2))
    assert levels(services.check_broker, settings) == ["ok"]
    ended = run_command(
        [sys.executable, "-c", "import sys, redis; client = redis.Redis.from_url(sys.argv[1]);"
         "client.config_set('maxmemory', '10mb'); client.config_set('maxmemory-policy', 'allkeys-lru')", redis.url]
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    [finding] = find(services.check_broker, settings)
    assert (finding.level, "allkeys-lru" in finding.found) == ("warning", True)
    assert "secret-of-redis" not in str(finding)


def test_a_broker_elsewhere_needs_a_password(settings: Settings) -> None:
    settings.broker_url = "redis://redis.example:6379/0"
    [finding, *_] = find(services.check_broker, settings)
    assert (finding.level, "password" in finding.found) == ("problem", True)


def idx(*sizes: int, length: int | None = None) -> bytes:
    total = 1
    for size in sizes:
        total *= size
    head = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
    return head + bytes(total if length is None else length)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (idx(10, 28, 28), None),
        (idx(10, 28, 28, length=100), "should hold 7,840"),
        (b"<html>not found</html>", "no IDX file"),
        (b"", "no IDX file"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_data_set_is_named(tmp_path: Path, content: bytes, said: str | None, packed: bool) -> None:
    path = tmp_path / ("t10k-images-idx3-ubyte" + (".gz" if packed else ""))
    path.write_bytes(gzip.compress(content) if packed else content)
    damage = describe_damage(path)
    assert (
        (damage is None) if said is None else (damage is not None and said in damage and str(path) in damage)
    )


def test_a_data_set_that_is_not_here_comes_with_how_to_get_it(settings: Settings) -> None:
    settings.datasets = settings.data_dir / "datasets"
    found = find(check_datasets, settings)
    assert [f.level for f in found if "Digits" in f.found] == ["ok"]
    assert any(f.level == "warning" and "MNIST" in f.found and "downloads" in f.remedy for f in found)


def test_a_registered_data_set_is_whole_and_the_same_on_every_host(settings: Settings) -> None:
    settings.datasets = settings.data_dir / "datasets"
    np.savez(settings.data_dir / "a.npz", X=np.zeros((20, 8, 8), np.uint8), y=np.arange(20) % 2)
    manifest, _notes = add_dataset(settings.datasets, "mine", settings.data_dir / "a.npz", Wanted())

    def told() -> str:
        return " | ".join(f"{f.level} {f.found}" for f in find(check_datasets, settings))

    assert "ok mine (16 + 4 images, registered" in told()
    database = Database(settings.database_url)
    for name, datasets in (("gpu-1", {"mine": manifest.digest}), ("gpu-2", {"other": "0" * 64})):
        with database.begin() as s:
            say_present(s, name, 2, ["CPU"], [], datasets=datasets).host = name
    assert "problem mine is missing on gpu-2" in told()
    assert "problem other is missing on gpu-1" in told()
    assert "problem other is registered on other hosts, but not here" in told()
    assert "not the same" not in told()
    with database.begin() as s:
        say_present(s, "gpu-2", 2, ["CPU"], [], datasets={"mine": "1" * 64})
    database.dispose()
    assert "problem mine is not the same on all hosts" in told()
    folder = settings.datasets / "registered" / "mine"
    np.save(folder / "val_images.npy", np.ones((4, 1, 8, 8), np.uint8))
    assert "problem mine is not what was registered" in told()
    (folder / "val_images.npy").unlink()
    assert "warning mine is registered, but its files are not here" in told()
    (folder / "manifest.json").write_text("{}")
    assert "problem mine: " in told()


def test_a_check_that_fails_hides_no_other(settings: Settings) -> None:
    def check_nothing(_settings: Settings) -> Any:
        raise RuntimeError("broken")

    [finding] = find(check_nothing, settings)
    assert (finding.check, finding.level) == ("nothing", "problem")


@pytest.mark.slow
def test_the_command_shows_every_check(tmp_path: Path) -> None:
    env = trainyard_env(tmp_path, PORT=str(free_port()))
    ended = run_command([sys.executable, "-m", "trainyard", "doctor", "--json"], env=env, within_s=200)
    told = json.loads(ended.stdout)
    checks = {check["check"] for check in told["checks"]}
    assert {"redis-server", "python", "packages", "data directory", "disk", "database", "broker"} <= checks
    assert {"web process", "clock", "torch", "gpu", "data sets"} <= checks
    assert told["ok"] is (ended.returncode == 0)
    assert all(check["remedy"] or check["level"] == "ok" for check in told["checks"])
    assert all(check["level"] != "problem" for check in told["checks"]), told
