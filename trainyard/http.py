"""Requests to a Trainyard server: address, token, retries, errors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic_core import to_json

from trainyard.errors import NotReachable, TrainyardError, from_response

DEFAULT_URL = "http://127.0.0.1:8000"
FIRST_BACK_OFF_S = 0.1
MAX_BACK_OFF_S = 2.0
BUSY = (502, 503, 504)  # a restart, a locked database, a proxy without its server
T = TypeVar("T")
Params = Sequence[tuple[str, str | int | float]]


class Http:
    """One connection pool to one server. Safe to share between threads."""

    def __init__(self, url: str | None, token: str | None, retry_s: float) -> None:
        self.url = (url or os.environ.get("TRAINYARD_URL") or DEFAULT_URL).rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ValueError(f"{self.url!r} is no address; give one such as {DEFAULT_URL} (TRAINYARD_URL)")
        token = token if token is not None else os.environ.get("TRAINYARD_TOKEN", "")
        self._retry_s = retry_s
        self._httpx = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(30, connect=5),
            trust_env=not is_loopback(
                urlsplit(self.url).hostname or ""
            ),  # no proxy between us and this machine
        )

    def close(self) -> None:
        self._httpx.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Params = (),
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        retry_s: float | None = None,
    ) -> Any:
        """The JSON of the answer. `repeatable`: asking twice does no more than asking once.

        Raises: TrainyardError when the server refuses; NotReachable when nothing answers for `retry_s`.
        """
        # Numbers by the hundred thousand: ten times as fast as json.dumps.
        content = None if body is None else to_json(body, inf_nan_mode="constants")
        headers = {**({} if body is None else {"Content-Type": "application/json"}), **(headers or {})}
        deadline = time.monotonic() + (self._retry_s if retry_s is None else retry_s)
        for pause_s in back_off():
            try:
                response = self._httpx.request(
                    method, path, params=list(params), content=content, headers=headers
                )
            except httpx.TransportError as error:
                # A refused connection has carried nothing, so that even an unrepeatable request may go again.
                again = repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if not again or time.monotonic() + pause_s > deadline:
                    raise NotReachable(self.url, _reason(error)) from error
            else:
                if response.is_success:
                    return _json(response, self.url)
                if (
                    response.status_code not in BUSY
                    or not repeatable
                    or time.monotonic() + pause_s > deadline
                ):
                    raise from_response(response)
            threading.Event().wait(pause_s)
        raise AssertionError("the back-off never ends")

    @contextmanager
    def stream(
        self, path: str, *, params: Params, headers: Mapping[str, str], read_s: float
    ) -> Iterator[Iterator[bytes]]:
        """The bytes of an answer as they arrive.

        Raises: TrainyardError; httpx.TransportError when it breaks.
        """
        timeout = httpx.Timeout(10, read=read_s)
        with self._httpx.stream(
            "GET", path, params=list(params), headers=headers, timeout=timeout
        ) as response:
            if not response.is_success:
                response.read()
                raise from_response(response)
            yield response.iter_bytes()


def back_off() -> Iterator[float]:
    """Seconds to wait between tries, without end."""
    pause_s = FIRST_BACK_OFF_S
    while True:
        yield pause_s
        pause_s = min(MAX_BACK_OFF_S, pause_s * 2)


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def keep_trying(send: Callable[[], T], within_s: float) -> T:
    """The answer of `send`, tried again while the server is away, busy or failing, for `within_s`.

    Raises: TrainyardError, the last one.
    """
    deadline = time.monotonic() + within_s
    for pause_s in back_off():
        try:
            return send()
        except TrainyardError as error:
            passing = isinstance(error, NotReachable) or error.status == 429 or error.status >= 500
            if not passing or time.monotonic() > deadline:
                raise
        threading.Event().wait(pause_s)
    raise AssertionError("the back-off never ends")


def _json(response: httpx.Response, url: str) -> Any:
    if response.status_code == 204 or not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        raise TrainyardError(
            "not_trainyard",
            f"{url} answered something that is no JSON; is that a Trainyard server?",
            None,
            200,
        ) from None


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
