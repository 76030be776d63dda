"""Put on PYTHONPATH, this keeps a process on its own machine: each attempt to reach another is noted, and refused."""

from __future__ import annotations

import os
import sys
from ipaddress import ip_address
from typing import Any

NOTES = os.environ["QUARANTINE_NOTES"]


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = str(arguments[1][0])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = str(arguments[0])
    else:
        return
    try:
        here = host in ("", "None", "localhost", "0.0.0.0", "::") or ip_address(host).is_loopback
    except ValueError:  # a name
        here = False
    if not here:
        with open(NOTES, "a") as file:
            file.write(f"{event} {host}\n")
        raise PermissionError(f"quarantine: {host}")


sys.addaudithook(_refuse)
