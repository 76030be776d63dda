"""A limit on wrong guesses, for each address that they come from."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from ipaddress import IPv6Address, ip_address, ip_network

MAX_WRONG = 20
WINDOW_S = 60.0
MAX_ADDRESSES = 4_096


class Guesses:
    """The times of the last wrong guesses by address, those of the latest addresses: some hundred kilobytes at most."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, address: str, at: float) -> float:
        """How long this address has to wait before it may guess again; 0 when it may now."""
        with self._lock:
            times = self._wrong.get(_group(address))
            if times is None or len(times) < MAX_WRONG:
                return 0.0
            return max(0.0, times[0] + WINDOW_S - at)

    def count(self, address: str, at: float) -> None:
        """One more wrong guess; the address that was heard of least recently makes room."""
        with self._lock:
            self._wrong.setdefault(_group(address), deque(maxlen=MAX_WRONG)).append(at)
            self._wrong.move_to_end(_group(address))
            if len(self._wrong) > MAX_ADDRESSES:
                self._wrong.popitem(last=False)


def _group(address: str) -> str:
    """One host: an IPv4 address, or the 64 bits of an IPv6 network, within which a host picks its addresses freely."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
    return str(ip)
