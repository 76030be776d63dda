"""Writes that an attempt must not lose: tried until the database takes them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from sqlmodel import Session

from app.db import Database
from app.errors import Unavailable

log = logging.getLogger(__name__)

FIRST_S, LAST_S = 0.25, 5.0
T = TypeVar("T")


def insist(
    db: Database, what: str, lease_s: float, change: Callable[[Session], T], *, durable: bool = False
) -> T:
    """What `change` returned in the transaction that was committed; it may run several times.

    When the database is back, leases are extended once: the next try must come well within that. Raises: what `change`
    raises, such as Fenced; never Unavailable.
    """
    delay_s = FIRST_S
    while True:
        try:
            with db.begin(durable=durable) as s:
                return change(s)
        except Unavailable as error:
            log.warning("%s waits: %s", what, error.message)
        threading.Event().wait(delay_s)
        delay_s = min(delay_s * 2, LAST_S, lease_s / 4)
