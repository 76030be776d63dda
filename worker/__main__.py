"""The worker: `python -m worker [--slots N]`, settings from TRAINYARD_* variables; `trainyard worker` is the same."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import socket
import sys
import threading
from typing import Any

from celery.signals import setup_logging, worker_ready, worker_shutting_down

from app import logs, queue, workers
from app.db import Database
from app.errors import TrainyardError
from app.reaper import Reaper
from app.settings import get_settings, make_data_dir
from app.ticker import Ticker
from worker import broker
from worker.slots import Slots, count_cores, list_gpus
from worker.supervisor import Supervisor

log = logging.getLogger("worker")

PRESENCE_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="trainyard worker", description=__doc__)
    parser.add_argument(
        "--slots", type=int, help="runs at a time (default: one a GPU, otherwise two, or one on one core)"
    )
    args = parser.parse_args()
    if args.slots is not None and not 1 <= args.slots <= 64:
        parser.error("--slots must be between 1 and 64")
    settings = get_settings()
    logs.configure(settings)
    setup_logging.connect(lambda **_: None, weak=False)  # Celery, or it would set the root's level to its own
    make_data_dir(settings)
    gpus = list_gpus()
    count = args.slots or len(gpus) or min(2, count_cores())
    name = f"{socket.gethostname()}-{os.getpid()}"
    logs.bind_process(worker=name)
    supervisor = Supervisor(
        Database(settings.database_url, pool_size=count + 2), settings, Slots(count), name
    )
    presence = Presence(supervisor, gpus or [f"CPU, {count_cores()} cores ({platform.machine()})"])
    reaper = Ticker("reaper", Reaper(supervisor.db, settings).tick)
    broker.install()
    queue.celery.task(name=queue.TASK, ignore_result=True)(supervisor.supervise)

    @worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def on_ready(**_: Any) -> None:
        for index in range(count):
            supervisor.slots.warm(index)
        presence.start()
        reaper.start()
        log.info("worker %s is ready: %d slots, %d threads each", name, count, supervisor.slots.threads)

    @worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def on_stop(**_: Any) -> None:
        supervisor.stopping.set()

    try:
        queue.celery.worker_main(
            ["--quiet", "worker", "-P", "threads", "-c", str(count), "-Q", queue.QUEUE, "-n", f"{name}@%h",
             "-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        )  # fmt: skip
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        supervisor.stopping.set()
        supervisor.slots.close()
        reaper.stop()
        presence.stop()
    return 0


class Presence:
    """Tells the database every few seconds that this worker is there and what it runs."""

    def __init__(self, supervisor: Supervisor, devices: list[str]) -> None:
        self._supervisor, self._devices = supervisor, devices
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        ours = self._supervisor
        while True:
            try:
                with ours.db.begin() as s:
                    workers.say_present(
                        s,
                        ours.name,
                        ours.slots.count,
                        self._devices,
                        sorted(ours.running),
                        ours.room.shortage(),
                    )
            except TrainyardError as error:
                log.warning("presence: %s", error.message)
            if self._stop.wait(PRESENCE_S):
                break
        try:
            with ours.db.begin() as s:
                workers.say_goodbye(s, ours.name)
        except TrainyardError as error:
            log.warning("presence: %s", error.message)


if __name__ == "__main__":
    sys.exit(main())
