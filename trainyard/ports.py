"""Whether the web process will be able to listen, known before anything is started."""

from __future__ import annotations

import errno
import socket


class PortTaken(Exception):
    """Nobody can listen there; the message says which port and what to do."""


def claim_port(host: str, port: int) -> int:
    """The port, or a free one for 0, once it is known that it can be bound. Raises: PortTaken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            bound: int = probe.getsockname()[1]
            return bound
    except socket.gaierror as error:
        raise PortTaken(f"--host {host}: there is no such address ({error.strerror})") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = f"choose another with --port, for example --port {min(port + 1, 65_535)}"
            raise PortTaken(f"port {port} on {host} is in use; {hint}") from None
        raise PortTaken(
            f"cannot listen on {host} port {port}: {error.strerror}; check --host, --port"
        ) from None


def url_of(host: str, port: int) -> str:
    """The address for a browser on this machine; a wildcard host is reached over loopback."""
    wildcards = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  compared, not bound
    shown = wildcards.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"
