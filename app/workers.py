"""Who trains: worker processes, as they last described themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from sqlalchemy import delete
from sqlmodel import Session, col, select

from app.db import now
from app.models import Worker

PRESENT_S = 15.0


def say_present(
    s: Session, name: str, slots: int, devices: list[str], running: list[str], note: str = ""
) -> None:
    """Insert or refresh this process's row; forget workers that have been silent for a day."""
    at = now(s)
    s.merge(
        Worker(
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            slots=slots,
            devices=devices,
            running=running,
            note=note,
            started_at=_started_at(s, name) or at,
            seen_at=at,
        )
    )
    s.execute(delete(Worker).where(col(Worker.seen_at) < at - 24 * 3600))


def _started_at(s: Session, name: str) -> float | None:
    return s.exec(select(Worker.started_at).where(col(Worker.name) == name)).first()


def say_goodbye(s: Session, name: str) -> None:
    s.execute(delete(Worker).where(col(Worker.name) == name))


def list_present(s: Session) -> Sequence[Worker]:
    """Workers heard of in the last seconds."""
    return s.exec(
        select(Worker).where(col(Worker.seen_at) > now(s) - PRESENT_S).order_by(col(Worker.name))
    ).all()
