"""A new version on the data of an old one, and the other way round: what waits goes on, what cannot be is said."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command
from sqlalchemy import create_engine, text

from app import copies
from app.migrate import alembic_config, keep_copy, migrate
from app.schema import known_revisions
from app.settings import Settings, database_url
from ml.spec import RunSpec
from tests import processes
from tests.processes import Postgres, redis_server, run_command, trainyard_env, wait_for

SPEC = {"dataset": "digits", "train_size": 64, "val_size": 32, "epochs": 2, "batch_size": 16, "device": "cpu"}
OLD = ("0001", "0003")  # the first schema, and one that was released for long; what is between follows


def insert_old_run(url: str, run_id: str, state: str) -> None:
    """A row as the old version wrote it, by SQL: today's classes know more columns than it has."""
    spec = RunSpec.model_validate(SPEC)
    row: dict[str, Any] = {
        "id": run_id, "name": run_id, "kind": "training", "tags": "[]", "notes": "",
        "spec": spec.model_dump_json(), "resolved": "{}", "model": spec.model, "dataset": spec.dataset,
        "state": state, "attempt": 0 if state == "queued" else 1, "failures": 0, "cancel_requested": False,
        "pause_requested": False, "phase": "", "not_before": 0, "created_at": 1.6e9, "queued_at": 1.6e9,
        "updated_at": 1.6e9, "revision": 1, "seq": 0, "step": 0, "total_steps": spec.total_steps, "epoch": 0,
        "steps_per_epoch": spec.steps_per_epoch,
    }  # fmt: skip
    engine = create_engine(url)
    with engine.begin() as connection:
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO run ({names}) VALUES ({values})"), row)
        connection.execute(
            text(
                "INSERT INTO run_event (run_id, at, from_state, to_state, actor, reason, attempt) "
                "VALUES (:id, 1.6e9, NULL, 'queued', 'user', 'submitted', 0)"
            ),
            {"id": run_id},
        )
    engine.dispose()


@contextmanager
def upgraded(env: dict[str, str], directory: Path) -> Iterator[httpx.Client]:
    """Upgrade with the real command, then start everything."""
    ended = run_command([sys.executable, "-m", "app.migrate"], env=env)
    assert ended.returncode == 0, ended.stderr
    with (
        processes.web_process(env, directory=directory) as web,
        processes.worker_process(env, 1, directory=directory),
        httpx.Client(base_url=web.url, trust_env=False, timeout=30) as http,
    ):
        yield http


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds on a machine with nothing else to do
@pytest.mark.parametrize("old", OLD)
def test_runs_that_wait_on_an_old_sqlite_run_after_the_upgrade(old: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trainyard.db'}"
    command.upgrade(alembic_config(url), old)
    insert_old_run(url, "waits", "queued")
    insert_old_run(url, "rests", "paused")
    with redis_server(tmp_path) as redis:
        check_both(trainyard_env(tmp_path, broker_url=redis.broker_url), tmp_path)

    [kept] = (tmp_path / "before-migration").iterdir()
    assert kept.name.startswith(f"schema-{old}-")
    with closing(sqlite3.connect(kept)) as connection:
        assert copies.check_integrity(connection) is None
        assert dict(connection.execute("SELECT id, state FROM run")) == {"waits": "queued", "rests": "paused"}


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds on a machine with nothing else to do
def test_runs_that_wait_on_an_old_postgres_run_after_the_upgrade(tmp_path: Path, postgres: Postgres) -> None:
    plain = postgres.create_database()
    command.upgrade(alembic_config(database_url(plain)), OLD[0])
    insert_old_run(database_url(plain), "waits", "queued")
    insert_old_run(database_url(plain), "rests", "paused")
    with redis_server(tmp_path) as redis:
        check_both(trainyard_env(tmp_path, broker_url=redis.broker_url, database_url=plain), tmp_path)


def check_both(env: dict[str, str], directory: Path) -> None:
    with upgraded(env, directory) as http:
        wait_for(lambda: state(http, "waits") == "finished", "the run that waited", 280)
        assert state(http, "rests") == "paused"
        assert http.post("/api/v1/runs/rests/resume").status_code == 202
        wait_for(lambda: state(http, "rests") == "finished", "the run that was paused", 280)
        found = http.get("/api/v1/series", params={"run": ["waits", "rests"], "metric": "train/loss"}).json()
        one, other = found["series"]
        assert one["total"] == other["total"] == RunSpec.model_validate(SPEC).total_steps
        assert one["value"] == other["value"]


def state(http: httpx.Client, run_id: str) -> str:
    return str(http.get(f"/api/v1/runs/{run_id}").json()["state"])


@pytest.fixture
def newer(tmp_path: Path, migrated_file: Path) -> dict[str, str]:
    """Settings with a database that a version to come has migrated."""
    with closing(sqlite3.connect(shutil.copy(migrated_file, tmp_path / "trainyard.db"))) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    return trainyard_env(tmp_path)


@pytest.mark.parametrize("module", ["app", "worker", "app.migrate"])
def test_an_old_version_leaves_a_newer_database_alone(
    newer: dict[str, str], tmp_path: Path, module: str
) -> None:
    before = dump(tmp_path / "trainyard.db")
    ended = run_command([sys.executable, "-m", module], env=newer)
    assert ended.returncode == 1
    assert "schema 9999" in ended.stderr
    assert "newer version" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert dump(tmp_path / "trainyard.db") == before


def dump(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("module", ["app", "worker"])
def test_a_new_version_on_an_old_database_asks_for_the_migration(tmp_path: Path, module: str) -> None:
    command.upgrade(alembic_config(f"sqlite:///{tmp_path / 'trainyard.db'}"), OLD[-1])
    ended = run_command(
        [sys.executable, "-m", module], env=trainyard_env(tmp_path, PORT=str(processes.free_port()))
    )
    assert ended.returncode == 1
    assert "run `trainyard migrate`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_migrating_again_changes_and_copies_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    for _ in range(2):
        keep_copy(settings)
        migrate(settings.database_url)
    assert not (tmp_path / "before-migration").exists()


def test_the_last_three_copies_are_kept(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    command.upgrade(alembic_config(settings.database_url), "0004")
    folder = tmp_path / "before-migration"
    folder.mkdir()
    for year in range(2020, 2025):
        (folder / f"schema-0001-{year}0101-000000.db").write_text(json.dumps(year))
    keep_copy(settings)
    assert len(list(folder.iterdir())) == 3
    assert any(path.name.startswith("schema-0004-") for path in folder.iterdir())


def test_revisions_are_known_by_their_files() -> None:
    known = known_revisions()
    assert known[0] == "0001"
    assert known == sorted(set(known))
