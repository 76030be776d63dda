"""Who trains: worker processes as they last described themselves, and what people want of them.

A drained worker takes no more runs and ends: with `finish` once those it has are over, with `now` as soon as they have
written a checkpoint, and they go on elsewhere. The wish stands in its row; the worker reads it with `say_present`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sqlalchemy import delete
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from app.actor import actor
from app.db import now
from app.errors import NotFound
from app.models import DRAIN_FINISH, DRAIN_NOW, Worker

PRESENT_S = 15.0


def say_present(
    s: Session, name: str, slots: int, devices: list[str], running: list[str], note: str = "", gpus: int = 0,
    datasets: Mapping[str, str] = MappingProxyType({}),
) -> Worker:  # fmt: skip
    """Insert or refresh this process's row, and read it; forget workers that have been silent for a day.

    `datasets`: the digests of those that are registered on its host, by name.
    """
    at = now(s)
    row = s.get(Worker, name, with_for_update=True) or Worker(
        name=name, host=socket.gethostname(), pid=os.getpid(), slots=slots, started_at=at, seen_at=at
    )
    row.slots, row.devices, row.running, row.note, row.seen_at = slots, devices, running, note, at
    row.gpus, row.datasets = gpus, dict(datasets)
    s.add(row)
    s.execute(delete(Worker).where(col(Worker.seen_at) < at - 24 * 3600))
    return row


def say_goodbye(s: Session, name: str) -> None:
    s.execute(delete(Worker).where(col(Worker.name) == name))


def read_wish(s: Session, name: str) -> str:
    """What people want of this worker: see app.models.DRAINS."""
    return s.exec(select(Worker.drain).where(col(Worker.name) == name)).first() or ""


def describe_leaving(s: Session, name: str) -> str:
    """Why a worker lets go of its runs, for their events."""
    worker = s.get(Worker, name)
    if worker is not None and worker.drain == DRAIN_NOW:
        return f"worker {name} was drained, as {worker.drain_by} asked"
    return f"worker {name} shuts down"


def request_drain(s: Session, name: str, *, at_once: bool) -> Worker:
    """Ask a worker that is here to take no more runs and to end; asking again may hurry it, never slow it down.

    Raises: NotFound.
    """
    worker = s.exec(_present(s).where(col(Worker.name) == name).with_for_update()).first()
    if worker is None:
        raise NotFound(
            f"there is no worker {name!r} here; `trainyard workers` and /workers list those there are"
        )
    wish = DRAIN_NOW if at_once else DRAIN_FINISH
    if worker.drain != DRAIN_NOW and worker.drain != wish:
        worker.drain, worker.drain_by = wish, actor()
        s.add(worker)
    return worker


def list_present(s: Session) -> Sequence[Worker]:
    """Workers heard of in the last seconds."""
    return s.exec(_present(s).order_by(col(Worker.name))).all()


def _present(s: Session) -> SelectOfScalar[Worker]:
    return select(Worker).where(col(Worker.seen_at) > now(s) - PRESENT_S)
