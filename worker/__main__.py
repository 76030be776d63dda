"""The worker: `python -m worker [--slots N]`, settings from TRAINYARD_* variables; `trainyard worker` is the same."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import socket
import sys
from typing import Any

from celery.signals import setup_logging, worker_ready, worker_shutting_down
from celery.worker import state

from app import logs, queue
from app.db import Database
from app.reaper import Reaper
from app.schema import describe_mismatch
from app.settings import get_settings, make_data_dir
from app.ticker import Ticker
from ml.datasets import DATASETS
from worker import broker
from worker.capacity import describe_slot
from worker.environment import is_root
from worker.preflight import Preflights
from worker.presence import Presence
from worker.slots import Slots, count_cores, default_slots, list_gpus
from worker.supervisor import Supervisor

log = logging.getLogger("worker")


def main() -> int:
    parser = argparse.ArgumentParser(prog="trainyard worker", description=__doc__)
    parser.add_argument(
        "--slots", type=int, help="runs at a time (default: one a GPU, otherwise two, or one on one core)"
    )
    args = parser.parse_args()
    if args.slots is not None and not 1 <= args.slots <= 64:
        parser.error("--slots must be between 1 and 64")
    settings = get_settings()
    os.umask(0o077)  # what is written is for the account that runs this alone
    logs.configure(settings)
    setup_logging.connect(lambda **_: None, weak=False)  # Celery, or it would set the root's level to its own
    refusal = queue.refuse_broker(settings.broker_url)
    if refusal:
        print(f"trainyard: {refusal}", file=sys.stderr)
        return 1
    make_data_dir(settings)
    DATASETS.look_in(settings.datasets_dir)
    gpus = list_gpus()
    count = args.slots or default_slots(len(gpus), count_cores())
    name = f"{socket.gethostname()}-{os.getpid()}"
    logs.bind_process(worker=name)
    supervisor = Supervisor(
        Database(settings.database_url, pool_size=count + 2), settings, Slots(count, len(gpus)), name
    )
    if (mismatch := describe_mismatch(supervisor.db)) is not None:
        print(f"trainyard: {mismatch}", file=sys.stderr)
        return 1
    preflights = Preflights(
        supervisor.db,
        describe_slot(gpus, supervisor.slots.threads),
        supervisor.slots.start,
        is_idle=lambda: not supervisor.running,
    )
    presence = Presence(
        supervisor,
        [gpu.name for gpu in gpus] or [f"CPU, {count_cores()} cores ({platform.machine()})"],
        on_drain=stop_consuming,
        capacity=lambda: preflights.capacity,
    )
    reaper = Ticker("reaper", Reaper(supervisor.db, settings).tick)
    broker.install()
    queue.celery.task(name=queue.TASK, ignore_result=True)(supervisor.supervise)

    @worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def on_ready(**_: Any) -> None:
        for index in range(count):
            supervisor.slots.warm(index)
        presence.start()
        preflights.start()
        reaper.start()
        log.info("worker %s is ready: %d slots, %d threads each", name, count, supervisor.slots.threads)

    @worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def on_stop(**_: Any) -> None:
        supervisor.leaving.set()
        supervisor.stopping.set()

    warn_of_root()
    served = ",".join(queue.queues_for(supervisor.slots.gpus))
    try:
        queue.celery.worker_main(
            ["--quiet", "worker", "-P", "threads", "-c", str(count), "-Q", served, "-n", f"{name}@%h",
             "-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        )  # fmt: skip
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        supervisor.leaving.set()
        supervisor.stopping.set()
        supervisor.slots.close()
        reaper.stop()
        preflights.stop()
        presence.stop()
    return 0


def stop_consuming() -> None:
    """End the worker as SIGTERM does, once the tasks that run are over; but nobody tells their trainers to stop."""
    state.should_stop = 0


def warn_of_root() -> None:
    """Code of ours alone runs here, but a mistake in it, or in a library, would have the whole machine."""
    if is_root():
        log.warning(
            "this worker runs as root; give it a user of its own, which needs no rights but its data directory"
        )


if __name__ == "__main__":
    sys.exit(main())
