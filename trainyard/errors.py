"""What the client raises.

TrainyardError      the server refused: `code`, `message`, `field`, `status`
  NotReachable      no answer at all: status 0, code "not_reachable"
"""

from __future__ import annotations

import httpx


class TrainyardError(Exception):
    """The server's own error: what, which field, and the HTTP status."""

    def __init__(self, code: str, message: str, field: str | None = None, status: int = 0) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.code = code
        self.message = message
        self.field = field
        self.status = status


class NotReachable(TrainyardError):
    """No server answers at the URL, or it stopped answering."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            "not_reachable", f"no answer from {url} ({reason}); is `trainyard up` running there?"
        )


def from_response(response: httpx.Response) -> TrainyardError:
    """The error that a response of 400 or above carries, also when it does not come from Trainyard itself."""
    try:
        error = response.json()["error"]
        return TrainyardError(error["code"], error["message"], error.get("field"), response.status_code)
    except (ValueError, KeyError, TypeError, AttributeError):
        text = response.text.strip()[:200] or response.reason_phrase
        return TrainyardError(
            "http_error", f"status {response.status_code}: {text}", None, response.status_code
        )
