"""The processes that train: how they begin, hear of signals and end, forked or started one by one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import wait_for
from worker.job import Job
from worker.slots import Slots
from worker.trainers import CAN_FORK, NAME, ForkServer, StartedTrainer, TrainerProcess

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
    """One that outlives the test; its trainers do not."""
    yield shared
    for one in trainers_of(shared):
        one.kill()
    wait_trainers(shared, 0)


def trainers_of(server: ForkServer) -> list[psutil.Process]:
    """Those alive, in the order in which they were forked."""
    found = psutil.Process(server.pid).children()
    return [one for one in found if one.name() == NAME and one.status() != psutil.STATUS_ZOMBIE]


def wait_trainers(server: ForkServer, count: int) -> list[psutil.Process]:
    return wait_for(
        lambda: found if len(found := trainers_of(server)) == count else None, f"{count} trainers", 60
    )


@pytest.fixture(params=[pytest.param("forked", marks=linux), "started"])
def begin(request: pytest.FixtureRequest) -> Callable[[], TrainerProcess]:
    if request.param == "started":
        return lambda: StartedTrainer(threads=1)
    server: ForkServer = request.getfixturevalue("server")
    return server.fork


# -- as the supervisor has them ---------------------------------------------------------------------------------------


def test_a_trainer_ends_with_its_standard_input(begin: Callable[[], TrainerProcess]) -> None:
    trainer = begin()
    assert trainer.alive()
    os.close(trainer._stdin)
    trainer._stdin = os.open(os.devnull, os.O_WRONLY)  # for `close`
    assert trainer.wait(60) == ORPHANED
    assert not trainer.alive()
    trainer.close()


def test_a_trainer_that_is_killed_says_so(begin: Callable[[], TrainerProcess]) -> None:
    trainer = begin()
    assert trainer.wait(0.01) is None
    trainer.signal(signal.SIGKILL)
    assert trainer.wait(60) == -signal.SIGKILL
    trainer.signal(signal.SIGTERM)  # it has ended: nobody else gets that
    trainer.close()


def test_what_goes_wrong_is_the_exit_code(begin: Callable[[], TrainerProcess], tmp_path: Path) -> None:
    trainer = begin()
    log = tmp_path / "runs" / "r" / "attempt-1.log"
    trainer.give(Job("r", 1, 0, [0], "host-1", {}, None, str(log)))
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
    monkeypatch.setattr("worker.trainers.DEAF_S", 0.5)
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
    trainers: list[TrainerProcess] = []
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
