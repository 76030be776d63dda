"""Who asks, as the event list of a run tells it: the name of the token of this request."""

from __future__ import annotations

from contextvars import ContextVar

USER = "user"  # who asks without a token of their own

# Set once a request (app/security.py). Routes run in threads, to which Starlette hands a copy of the context.
asking: ContextVar[str] = ContextVar("asking", default="")


def actor(otherwise: str = USER) -> str:
    """The token's name, or `otherwise` where none is needed or it is the installation's own."""
    return asking.get() or otherwise
