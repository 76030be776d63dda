"""The processes that know torch: how they begin, hear of signals and end, forked or started one by one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from app import anatomies
from app.db import Database
from app.migrate import migrate
from ml.spec import RunSpec
from tests.processes import wait_for
from worker.children import ANATOMIST, CAN_FORK, PACE, TRAINER, Child, Closing, ForkServer, StartedChild
from worker.job import Job
from worker.preflight import Preflights
from worker.slots import Slots

pytestmark = pytest.mark.slow
linux = pytest.mark.skipif(not CAN_FORK, reason="trainers are forked on Linux alone")
ORPHANED = 75


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRAINYARD_DATA_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.setenv("AWS_SECRET_ACCESS_KEY", "shush")
        server = ForkServer(threads=2)
    yield server
    server.close()


@pytest.fixture
def server(shared: ForkServer) -> Iterator[ForkServer]:
    """One that outlives the test; its children do not."""
    yield shared
    process = psutil.Process(shared.pid)
    for one in process.children():
        one.kill()
    wait_for(lambda: process.children() == [], "the end of all", 60)


def trainers_of(server: ForkServer) -> list[psutil.Process]:
    """Those alive, in the order in which they were forked."""
    found = psutil.Process(server.pid).children()
    return [one for one in found if one.name() == TRAINER and one.status() != psutil.STATUS_ZOMBIE]


def wait_trainers(server: ForkServer, count: int) -> list[psutil.Process]:
    return wait_for(
        lambda: found if len(found := trainers_of(server)) == count else None, f"{count} trainers", 60
    )


@pytest.fixture(params=[pytest.param("forked", marks=linux), "started"])
def begin(request: pytest.FixtureRequest) -> Callable[[str], Child]:
    if request.param == "started":
        return lambda role: StartedChild(role, threads=1)
    server: ForkServer = request.getfixturevalue("server")
    return server.fork


# -- as the supervisor has them ---------------------------------------------------------------------------------------


def test_a_trainer_ends_with_its_standard_input(begin: Callable[[str], Child]) -> None:
    trainer = begin(TRAINER)
    assert trainer.alive()
    os.close(trainer._stdin)
    trainer._stdin = os.open(os.devnull, os.O_WRONLY)  # for `close`
    assert trainer.wait(60) == ORPHANED
    assert not trainer.alive()
    trainer.close()


def test_a_trainer_that_is_killed_says_so(begin: Callable[[str], Child]) -> None:
    trainer = begin(TRAINER)
    assert trainer.wait(0.01) is None
    trainer.signal(signal.SIGKILL)
    assert trainer.wait(60) == -signal.SIGKILL
    trainer.signal(signal.SIGTERM)  # it has ended: nobody else gets that
    trainer.close()


def test_what_goes_wrong_is_the_exit_code(begin: Callable[[str], Child], tmp_path: Path) -> None:
    trainer = begin(TRAINER)
    log = tmp_path / "runs" / "r" / "attempt-1.log"
    trainer.say(Job("r", 1, 0, [0], "host-1", {}, None, str(log)).to_line())
    assert trainer.wait(60) == 1
    assert "Traceback" in log.read_text()
    trainer.close()


@linux
def test_a_trainer_leads_a_session_and_sees_no_secrets(server: ForkServer) -> None:
    trainer = server.fork()
    (process,) = wait_trainers(server, 1)
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    assert "AWS_SECRET_ACCESS_KEY" not in process.environ()
    assert process.environ()["OMP_NUM_THREADS"] == "2"
    trainer.close()


# -- as a pre-flight has them -----------------------------------------------------------------------------------------


def test_an_anatomist_answers_each_question_and_sees_no_gpu(begin: Callable[[str], Child]) -> None:
    asked = anatomies.question_of(RunSpec(model="lenet", dataset="digits"))
    child = begin(ANATOMIST)
    for _ in range(2):
        child.say(json.dumps(asked).encode() + b"\n")
        assert json.loads(child.hear(60))["parameters"] == 44_426
    child.say(b'{"model": "vgg"}\n')
    assert child.hear(60) == b"null\n"
    began = time.monotonic()
    assert child.hear(0.2) == b""  # nothing was asked
    assert time.monotonic() - began < 30
    assert child.alive()
    child.close()
    assert not child.alive()


def test_how_fast_a_slot_is_comes_as_one_line(begin: Callable[[str], Child]) -> None:
    child = begin(PACE)
    said = child.hear(120)
    assert said.endswith(b"\n")
    assert all(figure > 0 for figure in json.loads(said).values())
    assert child.wait(60) == 0
    assert child.hear(1) == b""
    child.close()


def test_who_has_died_is_heard_of(begin: Callable[[str], Child]) -> None:
    child = begin(ANATOMIST)
    child.signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    child.say(b"{}\n")
    assert child.hear(60) == b""
    child.close()


def test_a_worker_that_ends_starts_nobody() -> None:
    slots = Slots(1)
    slots.close()
    with pytest.raises(Closing):
        slots.start(ANATOMIST)
    assert slots._server is None


def test_a_question_is_left_to_others_by_a_worker_that_ends(db: Database) -> None:
    slots, question = Slots(1), anatomies.question_of(RunSpec(model="lenet", dataset="digits"))
    preflights = Preflights(db, {"threads": 1}, slots.start, is_idle=lambda: False)
    slots.close()
    preflights.start()
    with db.begin() as s:
        anatomies.ask(s, question)
    time.sleep(1)
    preflights.stop()
    with db.begin() as s:
        assert anatomies.take_question(s) == question


@linux
def test_a_slot_is_timed_while_nothing_is_trained_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("worker.preflight.SETTLED_S", 0.5)
    url = f"sqlite:///{tmp_path / 'yard.db'}"
    migrate(url)
    training, slots = threading.Event(), Slots(1)
    training.set()
    preflights = Preflights(Database(url), {"threads": 1}, slots.start, lambda: not training.is_set())
    preflights.start()
    time.sleep(2)
    assert slots._server is None
    training.clear()
    wait_for(lambda: "pace" in preflights.capacity, "the pace", 120)
    assert preflights.capacity["pace"]["convolution"] > 0
    preflights.stop()
    slots.close()


@linux
@pytest.mark.parametrize("can_fork", [True, False])
def test_a_worker_that_ends_waits_for_no_answer(
    db: Database, monkeypatch: pytest.MonkeyPatch, can_fork: bool
) -> None:
    """Also where the process that should answer stands still; no file of its is closed twice, or kept."""
    monkeypatch.setattr("worker.slots.CAN_FORK", can_fork)
    held = pipes()
    slots = Slots(1)
    preflights = Preflights(db, {"threads": 1}, slots.start, is_idle=lambda: False)
    preflights.start()
    for spec in (RunSpec(model="lenet", dataset="digits"), RunSpec(model="mlp", dataset="digits")):
        question = anatomies.question_of(spec)
        with db.begin() as s:
            anatomies.ask(s, question)
        if spec.model == "lenet":
            wait_for(partial(read, db, question), "an answer", 60)
            (answering,) = [one for one in psutil.Process().children(recursive=True) if is_anatomist(one)]
            answering.suspend()
    wait_for(lambda: not is_asked(db), "the second question to be taken", 30)
    wait_for(lambda: "pace" in preflights.capacity, "the pace", 120)
    began = time.monotonic()
    slots.close()
    preflights.stop()
    assert time.monotonic() - began < 30
    assert not preflights._thread.is_alive()
    assert pipes() == held


def read(db: Database, question: anatomies.Question) -> dict[str, Any] | None:
    with db.read() as s:
        return anatomies.read_answer(s, question)


def is_asked(db: Database) -> bool:
    with db.read() as s:
        return anatomies.is_anything_asked(s)


def pipes() -> set[str]:
    """Those that this process holds."""
    links = {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
    return {link for link in links if link.startswith("pipe:")}


def is_anatomist(process: psutil.Process) -> bool:
    return process.name() == ANATOMIST or "worker.anatomist" in process.cmdline()


# -- forks ------------------------------------------------------------------------------------------------------------


@linux
def test_nothing_but_one_thread_is_forked(server: ForkServer) -> None:
    """Locks of other threads would be held for ever in a fork; torch's and OpenBLAS's begin with the first work."""
    server.fork()
    wait_trainers(server, 1)
    assert psutil.Process(server.pid).num_threads() == 1


@linux
def test_forks_hold_no_file_of_each_other(server: ForkServer) -> None:
    """Or the end of a worker, or of its server, would not be seen."""
    for _ in range(3):
        server.fork()
    pipes = [
        sorted(os.readlink(entry) for entry in Path(f"/proc/{one.pid}/fd").iterdir())
        for one in wait_trainers(server, 3)
    ]
    held = [[name for name in names if name.startswith(("pipe:", "socket:"))] for names in pipes]
    ours = [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)]  # standard error, as the worker's
    held = [[name for name in names if name not in ours] for names in held]
    assert [len(names) for names in held] == [1, 1, 1]
    assert len({name for names in held for name in names}) == 3


@linux
def test_a_service_that_is_told_to_stop_keeps_the_server_for_its_trainers(server: ForkServer) -> None:
    trainer = server.fork()
    wait_trainers(server, 1)
    os.kill(server.pid, signal.SIGTERM)
    os.kill(server.pid, signal.SIGINT)
    other = server.fork()
    wait_trainers(server, 2)
    for one in (trainer, other):
        one.signal(signal.SIGKILL)
        assert one.wait(60) == -signal.SIGKILL


@linux
def test_trainers_end_with_their_server_and_the_next_come_from_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.slots.WARM_AGAIN_S", 600.0)  # so that no other trainer is started here
    slots = Slots(1)
    trainer = slots.take(0)
    server = slots._server
    assert server is not None
    (process,) = wait_trainers(server, 1)
    os.kill(server.pid, signal.SIGKILL)
    assert trainer.wait(60) == -signal.SIGKILL
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "its end", 30)
    trainer.close()
    again = slots.take(0)
    assert slots._server is not server
    assert slots._server is not None
    wait_trainers(slots._server, 1)
    assert again.alive()
    again.close()
    slots.close()


@linux
def test_where_no_process_can_be_had_the_others_train_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second fork fails, as it does at a container's limit."""
    source = (
        "import os\nforks, honest = [], os.fork\ndef fork():\n    forks.append(1)\n    if len(forks) == 2:\n"
    )
    source += "        raise BlockingIOError('no more')\n    return honest()\nos.fork = fork\n"
    (tmp_path / "sitecustomize.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = ForkServer(threads=1)
    first, second, third = (server.fork() for _ in range(3))
    assert second.wait(60) == 1
    wait_trainers(server, 2)
    assert first.alive()
    assert third.alive()
    for trainer in (first, second, third):
        trainer.close()
    server.close()


@linux
def test_a_server_that_hangs_holds_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.children.DEAF_S", 0.5)
    server = ForkServer(threads=1)
    trainer, other = server.fork(), server.fork()
    wait_trainers(server, 2)
    os.kill(server.pid, signal.SIGSTOP)
    assert trainer.wait(1) is None
    assert server.alive
    trainer.close()
    assert trainer.wait() == other.wait() == -signal.SIGKILL
    assert not server.alive


@linux
def test_who_answers_ends_no_trainer_though_nobody_tells_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.children.DEAF_S", 0.5)
    server = ForkServer(threads=1)
    trainer, child = server.fork(), server.fork(ANATOMIST)
    wait_trainers(server, 1)
    child.say(b"{}\n")
    assert child.hear(60) == b"null\n"
    os.kill(server.pid, signal.SIGSTOP)
    closing = threading.Thread(target=child.close)
    closing.start()
    time.sleep(2)
    assert server.alive
    assert closing.is_alive()
    os.kill(server.pid, signal.SIGCONT)
    closing.join(60)
    assert not closing.is_alive()
    assert trainer.alive()
    trainer.close()
    server.close()


@linux
def test_a_server_that_cannot_start_tells_why_by_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = ForkServer(threads=1)
    trainer = server.fork()
    assert trainer.wait(60) == 1
    trainer.close()
    wait_for(lambda: not server.alive, "the server's end", 30)
    assert server.fork().wait(60) == 1
    server.close()


@linux
def test_many_forks_at_once_are_each_other_s_equals(server: ForkServer) -> None:
    trainers: list[Child] = []
    threads = [threading.Thread(target=lambda: trainers.append(server.fork())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pids = {one.pid for one in wait_trainers(server, 20)}
    assert len(pids) == 20
    for trainer in trainers:
        trainer.signal(signal.SIGKILL)
    assert [trainer.wait(60) for trainer in trainers] == [-signal.SIGKILL] * 20
    wait_trainers(server, 0)
    wait_for(lambda: psutil.Process(server.pid).children() == [], "all of them to be reaped", 30)


@linux
def test_a_worker_that_goes_at_once_leaves_nothing() -> None:
    """Also while torch is still being imported."""
    slots = Slots(2)
    for index in range(2):
        slots.warm(index)
    assert slots._server is not None
    process = psutil.Process(slots._server.pid)
    slots.close()
    assert not process.is_running()
