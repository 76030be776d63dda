"""Trainyard's Python client: `trainyard.Client`.

from trainyard import Client

client = Client()
run = client.submit(model="lenet", dataset="digits", epochs=3)
print(client.wait(run.id).state)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainyard.client import Client
    from trainyard.errors import NotReachable, TrainyardError
    from trainyard.external import ExternalRun
    from trainyard.records import Event, Run, Series

__all__ = ["Client", "Event", "ExternalRun", "NotReachable", "Run", "Series", "TrainyardError"]

_HOME = {
    "Client": "trainyard.client",
    "Event": "trainyard.records",
    "ExternalRun": "trainyard.external",
    "NotReachable": "trainyard.errors",
    "Run": "trainyard.records",
    "Series": "trainyard.records",
    "TrainyardError": "trainyard.errors",
}


def __getattr__(name: str) -> Any:
    # Lazy: the command line shows its help without importing httpx and pydantic.
    if name not in _HOME:
        raise AttributeError(f"module 'trainyard' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
