"""How a worker takes runs and lets go of them while the database comes and goes, on SQLite and Postgres."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from sqlmodel import Session

from app import runs, workers
from app.db import Database
from app.errors import NotFound, Unavailable
from app.models import DRAIN_FINISH, DRAIN_NOW, QUEUED, RUNNING
from app.runs import NewRun
from app.settings import Settings
from ml.spec import RunSpec
from tests.processes import run_command, wait_for
from worker.children import Child
from worker.environment import trainer_environment
from worker.presence import Presence
from worker.slots import Slots
from worker.supervisor import Supervisor, Watch
from worker.trainer_exit import EXIT_STALLED, describe_exit


class Shaky(Database):
    """Says `failures` times that it is not there: before anything is done, or after it was committed."""

    failures = 0
    after_commit = False

    @contextmanager
    def begin(self, *, durable: bool = False) -> Iterator[Session]:
        fails, self.failures = self.failures > 0, max(0, self.failures - 1)
        if fails and not self.after_commit:
            raise Unavailable("it is away")
        with super().begin(durable=durable) as s:
            yield s
        if fails:
            raise Unavailable("nobody knows whether that was committed")


@pytest.fixture
def shaky(db_url: str) -> Iterator[Shaky]:
    database = Shaky(db_url)
    yield database
    database.dispose()


@pytest.fixture
def supervisor(shaky: Shaky, tmp_path: Path) -> Iterator[Supervisor]:
    slots = Slots(2)
    yield Supervisor(shaky, Settings(data_dir=tmp_path, min_free_mb=0), slots, "host-1")
    slots.close()


def make_run(db: Database) -> str:
    with db.begin() as s:
        return runs.create_run(s, NewRun(RunSpec()), max_queued=10)[0].id


def reasons(db: Database, run_id: str) -> list[str]:
    with db.read() as s:
        return [event.reason for event in runs.list_events(s, run_id)]


def test_a_message_is_kept_until_the_database_is_back(supervisor: Supervisor, shaky: Shaky) -> None:
    run_id = make_run(shaky)
    shaky.failures = 3
    run = supervisor.claim(run_id, 0)
    assert run is not None
    assert (run.state, run.attempt, supervisor.running) == (RUNNING, 1, {0: run_id})


def test_a_claim_whose_commit_was_in_doubt_is_made_again_uncharged(
    supervisor: Supervisor, shaky: Shaky
) -> None:
    run_id = make_run(shaky)
    shaky.failures, shaky.after_commit = 1, True
    run = supervisor.claim(run_id, 0)
    assert run is not None
    assert (run.attempt, run.failures) == (2, 0)
    assert reasons(shaky, run_id)[2:] == [
        "worker host-1 lost the database as it took the run; starts again from the beginning",
        "claimed by host-1",
    ]


def test_a_claim_in_doubt_leaves_alone_what_another_slot_trains(supervisor: Supervisor, shaky: Shaky) -> None:
    run_id = make_run(shaky)
    assert supervisor.claim(run_id, 0) is not None
    shaky.failures = 1
    assert supervisor.claim(run_id, 1) is None
    with shaky.read() as s:
        assert (runs.get_run(s, run_id).attempt, supervisor.running) == (1, {0: run_id})


def test_a_run_is_kept_for_a_trainer_until_its_first_step(supervisor: Supervisor, shaky: Shaky) -> None:
    """Its own thread may be held up while it loads; from then on it must show that it lives."""
    run_id = make_run(shaky)
    with shaky.begin() as s:
        run = runs.claim_run(s, run_id, supervisor.name, 20)
    assert run is not None
    watch = Watch(supervisor, run, cast(Child, None))
    for seq, step, phase, renewed in (
        (1, None, "loading data", True),
        (2, 0, "training", True),
        (3, 1, "training", False),
    ):
        with shaky.begin() as s:
            runs.report(s, run_id, 1, seq, {}, lease_s=1, step=step, phase=phase, step_rate=step or None)
        before = lease(shaky, run_id)
        watch.look()
        assert (lease(shaky, run_id) > before + 10) is renewed, phase


def lease(db: Database, run_id: str) -> float:
    with db.read() as s:
        return runs.get_run(s, run_id).lease_until or 0.0


def test_a_worker_that_leaves_takes_nothing(supervisor: Supervisor, shaky: Shaky) -> None:
    run_id = make_run(shaky)
    shaky.failures = 10**6
    claiming = threading.Thread(target=supervisor.supervise, args=[run_id])
    claiming.start()
    supervisor.leaving.set()
    claiming.join(30)
    assert not claiming.is_alive()
    shaky.failures = 0
    supervisor.supervise(run_id)
    with shaky.read() as s:
        assert runs.get_run(s, run_id).state == QUEUED


# -- drain ----------------------------------------------------------------------------------------------------


def test_a_wish_to_drain_is_heard_and_can_be_hurried(supervisor: Supervisor, shaky: Shaky) -> None:
    drained = threading.Event()
    presence = Presence(supervisor, ["CPU"], drained.set, dict)
    presence.start()
    wait_for(lambda: names(shaky) == ["host-1"], "the worker's row")
    with shaky.begin() as s:
        workers.request_drain(s, "host-1", at_once=False)
    assert drained.wait(30)
    assert (supervisor.leaving.is_set(), supervisor.stopping.is_set()) == (True, False)
    with shaky.begin() as s:
        assert workers.describe_leaving(s, "host-1") == "worker host-1 shuts down"
        assert workers.request_drain(s, "host-1", at_once=True).drain == DRAIN_NOW
        assert workers.request_drain(s, "host-1", at_once=False).drain == DRAIN_NOW
        assert workers.describe_leaving(s, "host-1") == "worker host-1 was drained, as user asked"
    assert supervisor.stopping.wait(30)
    presence.stop()
    assert names(shaky) == []


def test_a_wish_outlives_what_a_worker_says_but_not_the_worker(supervisor: Supervisor, shaky: Shaky) -> None:
    with shaky.begin() as s:
        workers.say_present(s, "host-1", 1, [], [])
        workers.request_drain(s, "host-1", at_once=False)
    with shaky.begin() as s:
        assert workers.say_present(s, "host-1", 2, [], ["a run"]).drain == DRAIN_FINISH
    presence = Presence(supervisor, ["CPU"], lambda: None, dict)  # a new process of the same name
    presence.start()
    wait_for(lambda: devices(shaky) == ["CPU"], "its row")
    presence.stop()
    assert not supervisor.leaving.is_set()


def test_only_a_worker_that_is_there_can_be_drained(shaky: Shaky) -> None:
    with pytest.raises(NotFound, match="no worker 'gone' here"), shaky.begin() as s:
        workers.request_drain(s, "gone", at_once=False)


def names(db: Database) -> list[str]:
    with db.read() as s:
        return [worker.name for worker in workers.list_present(s)]


def devices(db: Database) -> list[str]:
    with db.read() as s:
        return [device for worker in workers.list_present(s) for device in worker.devices]


# -- the trainer's environment ---------------------------------------------------------------------------------


def test_a_trainer_gets_no_secret_that_it_does_not_need() -> None:
    given = {
        "PATH": "/bin", "HOME": "/home/a", "http_proxy": "http://proxy", "CUDA_VISIBLE_DEVICES": "1", "LC_ALL": "C",
        "TRAINYARD_DATABASE_URL": "postgresql://u:p@h/d", "TRAINYARD_DATA_DIR": "/data", "OMP_NUM_THREADS": "64",
        "CC": "clang", "CXX": "clang++", "CUDA_DEVICE_ORDER": "FASTEST_FIRST",
    }  # fmt: skip
    secrets = {
        "TRAINYARD_TOKEN": "t", "TRAINYARD_BROKER_URL": "redis://:p@h", "AWS_SECRET_ACCESS_KEY": "s", "PGPASSWORD": "p",
        "GITHUB_TOKEN": "g", "CELERY_BROKER_URL": "redis://:p@h", "SSH_AUTH_SOCK": "/s", "TORCH_API_KEY": "k",
    }  # fmt: skip
    env = trainer_environment({**given, **secrets}, threads=3)
    assert env == {
        **given, "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "PYTHONUNBUFFERED": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }  # fmt: skip


# -- standing still -------------------------------------------------------------------------------------------

STANDS_STILL = """
import sys, threading
from app import runs
from app.db import Database
from worker.reporter import Reporter
from worker.stall import Stall

url, run_id, busy_s = sys.argv[1:]
reporter = Reporter(Database(url), run_id, 1, 0, lease_s=20, flush_s=0.1)
reporter.start()
stall = Stall(reporter, stall_s=2)
stall.start()

def hang_here():
    threading.Event().wait(60)

for _ in range(int(busy_s) * 2):
    threading.Event().wait(0.5)
    stall.beat()
hang_here()
"""


def test_a_trainer_that_stands_still_is_ended_with_its_stacks(shaky: Shaky, db_url: str) -> None:
    run_id = make_run(shaky)
    with shaky.begin() as s:
        assert runs.claim_run(s, run_id, "host-1", 20) is not None
    ended = run_command([sys.executable, "-c", STANDS_STILL, db_url, run_id, "4"], within_s=120)
    assert ended.returncode == EXIT_STALLED, ended.stderr
    assert "in hang_here" in ended.stderr
    with shaky.read() as s:
        assert (
            runs.get_run(s, run_id).seq >= 3
        )  # it was let work for longer than that, and said so each second


# -- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "tail", "said"),
    [
        (-9, "", "the trainer was killed by signal 9, perhaps out of memory"),
        (-11, "", "the trainer was ended by signal 11 (SIGSEGV)"),
        (1, "Traceback\n  File\nMemoryError\n", "the trainer exited with code 1: MemoryError"),
        (
            1,
            "x\ntorch.OutOfMemoryError: CUDA\n",
            "the trainer exited with code 1: torch.OutOfMemoryError: CUDA",
        ),
        (3, "epoch 4 begins", "the trainer exited with code 3"),
        (3, "", "the trainer exited with code 3"),
        (77, "", "the trainer stood still for too long (TRAINYARD_STALL_S) and was ended"),
    ],
)
def test_how_a_trainer_ended_is_said_in_words(code: int, tail: str, said: str) -> None:
    assert describe_exit(code, tail) == said
