"""Requests as written, byte for byte: clients that mean well would tidy up the addresses that these tests send."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode, urlsplit


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection to a web process, made again when the server has closed it."""

    def __init__(self, url: str, *, token: str = "") -> None:
        self._host = urlsplit(url).netloc
        self._usual = {"host": self._host, "accept": "text/html, application/json"}
        self._usual |= {"authorization": f"Bearer {token}"} if token else {}
        self._connection = http.client.HTTPConnection(self._host, timeout=30)

    def ask(
        self, method: str, target: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer; of an event stream no more than its beginning."""
        try:
            self._send(method, target, body, headers or {})
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self.close()
            self._send(method, target, body, headers or {})
            response = self._connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        if told.get("content-type", "").startswith("text/event-stream"):
            content = response.read1(65_536)
            self.close()
        else:
            content = response.read()
        return Answer(response.status, told, content)

    def begin(self, method: str, target: str, headers: Mapping[str, str]) -> int:
        """The status of an answer that is left open."""
        self._send(method, target, b"", headers)
        return self._connection.getresponse().status

    def get(self, target: str, **query: str) -> Answer:
        return self.ask("GET", f"{target}?{urlencode(query)}" if query else target)

    def send_json(self, method: str, target: str, document: Any) -> Answer:
        return self.ask(
            method, target, body=json.dumps(document).encode(), headers={"content-type": "application/json"}
        )

    def send_form(self, target: str, fields: Mapping[str, str]) -> Answer:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return self.ask("POST", target, body=urlencode(fields).encode(), headers=kind)

    def _send(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> None:
        self._connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in {**self._usual, **headers}.items():
            self._connection.putheader(name, value)
        self._connection.putheader("content-length", str(len(body)))
        self._connection.endheaders(body)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_path(text: str) -> str:
    """One part of a path, everything but letters and digits escaped."""
    return quote(text, safe="")
