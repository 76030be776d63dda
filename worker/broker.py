"""Redis as our broker, except that a message which is none cannot end the worker."""

from __future__ import annotations

import logging
from queue import Empty
from typing import Any

from kombu.transport import redis

log = logging.getLogger(__name__)


class Channel(redis.Channel):
    """Throws away what cannot be read as a message; kombu lets the error through, and Celery ends the worker on it.

    Nothing is lost by that: a run that waits in the database is published again.
    """

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            log.warning(
                "threw away a message that is none of ours: %s: %s", type(error).__name__, str(error)[:200]
            )
            raise Empty from error


def install() -> None:
    """Use it for every connection to Redis that this process makes from here on."""
    redis.Transport.Channel = Channel
