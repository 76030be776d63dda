"""Redis as our broker, except that a message which is none cannot end the worker."""

from __future__ import annotations

import logging
from queue import Empty
from typing import Any

from kombu.transport import redis

log = logging.getLogger(__name__)


class Channel(redis.Channel):
    """Throws away what cannot be read as a message; kombu lets the error through, and Celery ends the worker on it.

    Nothing is lost by that: a run that waits in the database is published again. A message on which Celery failed after
    it was taken must be let go too, or it would hold its slot for ever: the worker takes no more than it has slots.
    """

    def _brpop_read(self, **options: Any) -> Any:
        held = self._find_held()
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            log.warning(
                "threw away a message that is none of ours: %s: %s", type(error).__name__, str(error)[:200]
            )
            for tag in self._find_held() - held:
                self.qos.reject(tag)
            raise Empty from error

    def _find_held(self) -> set[str]:
        """The tags of messages that were taken and not acknowledged yet."""
        held: set[str] = set(self.qos._delivered) - self.qos._dirty
        return held


def install() -> None:
    """Use it for every connection to Redis that this process makes from here on."""
    redis.Transport.Channel = Channel
