"""A run on several devices: torchrun's elastic agent starts its ranks, watches over them, and ends all when one dies.

The agent is the trainer that got the job; its ranks are children in its process group: whatever ends the one ends the
others. Rank 0 is a trainer as any (`worker.trainer.Trainer`); the others train along and report nothing, but for an
error that the next attempt would end in too: whichever rank has it ends the run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from sqlmodel import Session
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from app import logs, runs
from app.db import Database
from app.errors import Fenced
from app.models import FAILED
from app.settings import get_settings
from ml import checkpoint
from ml.crew import Crew, Dismissed, Ranks
from ml.data import load_dataset
from ml.datasets import DATASETS
from ml.spec import RunSpec
from ml.tally import NonFiniteLoss
from ml.train import train
from ml.weights import load_weights
from worker.job import Job
from worker.reporter import EXIT_FENCED
from worker.trainer import (
    EXIT_ORPHANED,
    Trainer,
    comes_again,
    explaining,
    in_words,
    leave,
    pick_place,
    print_crash,
)
from worker.trainer_exit import EXIT_CRASHED, read_tail
from worker.writes import insist

log = logging.getLogger(__name__)

LOCAL, BACKEND = "127.0.0.1", "loopback"
MEET_S = 300  # so long may the ranks take to start
LOOK_S = 0.25
GRACE_S = 2.0  # who fails because another rank has died waits for that one to be found first
SECOND_HAND = re.compile(r"closed by peer|reset by peer|remote process|timed out", re.IGNORECASE)


class Loopback(StaticTCPRendezvous):
    """torchrun's static rendezvous, except that its store listens on this host's loopback alone.

    Its own listens on every interface, and whoever reaches it could take part in the training.
    """

    def __init__(self, run_id: str) -> None:
        listener = socket.create_server((LOCAL, 0))
        port = listener.getsockname()[1]
        super().__init__(LOCAL, port, 0, 1, run_id, MEET_S)
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            LOCAL,
            port,
            1,
            True,
            timedelta(seconds=MEET_S),
            multi_tenant=True,
            master_listen_fd=listener.detach(),
        )

    def get_backend(self) -> str:
        return BACKEND


# -- the agent ------------------------------------------------------------------------------------------------


def launch(job: Job) -> int:
    """Train the job on its ranks, in processes of their own; the trainer's exit code.

    A run's threads are those of its slot: processes on the CPU share them.
    """
    DATASETS.look_in(get_settings().datasets_dir)
    spec = RunSpec.read_stored(job.spec)
    if len(job.slots) < spec.devices:
        threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // spec.devices)
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = find_loopback()
    rendezvous_handler_registry.register(BACKEND, lambda asked: Loopback(asked.run_id))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=spec.devices,
        run_id=f"{job.run_id}-{job.attempt}",
        rdzv_backend=BACKEND,
        max_restarts=0,  # the next attempt is the supervisor's to start
        start_method="spawn",
        signals_to_handle="SIGTERM",  # passed on to the ranks, where rank 0 writes a checkpoint
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # all of it goes to the run's log
    )
    try:
        elastic_launch(config, train_rank)(job, os.getpid())
    except SignalException:
        return 0  # rank 0 has recorded what came of it, or the supervisor does
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(explain(rank, spec.devices, failure.exitcode), file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else EXIT_CRASHED
    return 0


def explain(rank: int, size: int, code: int) -> str:
    """How a rank ended, the last line of the run's log: the supervisor quotes it."""
    if code == -signal.SIGKILL:
        return f"RankError: rank {rank} of {size} was killed by signal 9, perhaps out of memory"
    if code < 0:
        return f"RankError: rank {rank} of {size} was ended by signal {-code}"
    return f"RankError: rank {rank} of {size} exited with code {code}; the log says why"


def find_loopback() -> str:
    """The name of the interface that reaches this host alone; `lo` on Linux, `lo0` elsewhere."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name in ("lo", "lo0")), names[0])


# -- a rank ---------------------------------------------------------------------------------------------------


def train_rank(job: Job, agent: int) -> None:
    """One of the processes that the agent starts. Returns when the training is over; a failure ends the process."""
    stop = threading.Event()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    signal.signal(
        signal.SIGTERM, lambda *_: stop.set()
    )  # only rank 0 looks at it, and then dismisses the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch(agent)
    settings = get_settings()
    logs.configure(settings)
    logs.bind_process(run=job.run_id, attempt=job.attempt, worker=job.worker, rank=rank)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        take_part(job, stop, Crew(rank, size))
    except Fenced as error:
        log.warning("%s", error.message)
        leave(EXIT_FENCED)
    except BaseException as error:  # noqa: BLE001  # the agent is told by the exit code and the log
        print_crash(error)
        if isinstance(error, Exception) and comes_again(error, Crew(rank, size)):
            give_up(job, error)
        elif SECOND_HAND.search(str(error)):
            time.sleep(GRACE_S)
        leave(EXIT_CRASHED)


def take_part(job: Job, stop: threading.Event, place: Crew) -> None:
    """Meet the others and train with them."""
    device = pick_place(job, place)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=get_settings().stall_s))
    crew = Ranks(place.rank, place.size, device)
    for pid in crew.meet(os.getpid()):
        watch(pid)
    if crew.leads:
        lead(job, stop, crew)
    else:
        follow(job, crew, device)
    dist.destroy_process_group()


def give_up(job: Job, error: Exception) -> None:
    """End the run, which no other attempt would get further with, unless another rank has done so."""
    settings = get_settings()
    reason, tail = in_words(error), read_tail(Path(job.log))

    def end(s: Session) -> None:
        runs.end_run(s, job.run_id, job.attempt, FAILED, job.worker, reason, tail=tail)

    with suppress(Fenced):
        insist(Database(settings.database_url, pool_size=1), "the end", settings.lease_s, end)


def lead(job: Job, stop: threading.Event, crew: Ranks) -> None:
    """Rank 0: the trainer, which records what becomes of the run."""
    leader = Trainer(job, get_settings(), stop, crew)
    leader.run()
    if leader.broken_off:
        leave(EXIT_CRASHED)  # and the agent ends the others, which wait for the rest of the step
    crew.dismiss()


def follow(job: Job, crew: Ranks, device: torch.device) -> None:
    """Train along, from the checkpoint that rank 0 chose, until it says that it is over."""
    settings = get_settings()
    DATASETS.look_in(settings.datasets_dir)
    spec = RunSpec.read_stored(job.spec)
    try:
        pointer = json.loads(crew.share_text(""))  # rank 0 has loaded, and downloaded, the data by then
        data = load_dataset(spec.dataset, settings.datasets_dir)
        resume = None
        if pointer is not None:
            path = settings.runs_dir / job.run_id / Path(pointer["file"]).name
            resume = checkpoint.load(path, pointer["sha256"])
        weights = None if resume is not None else load_weights(spec.model, settings.datasets_dir)
        # The very loss of rank 0, which reports it.
        with suppress(NonFiniteLoss), explaining(spec, data, device):
            for _ in train(spec, data, device=device, resume=resume, weights=weights, crew=crew):
                pass
        crew.stand_by()
    except Dismissed:
        pass


def watch(pid: int) -> None:
    """End this process soon after that one, the agent or a rank: a collective may wait for a dead rank for long."""

    def look() -> None:
        while is_alive(pid):
            time.sleep(LOOK_S)
        time.sleep(GRACE_S)
        leave(EXIT_ORPHANED)

    threading.Thread(target=look, name=f"watch-{pid}", daemon=True).start()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
