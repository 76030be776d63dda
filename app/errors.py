"""The errors that reach a person or a script, each with its HTTP status.

TrainyardError
|- Invalid            422  a field is wrong; `field` names it
|- NotFound           404
|- Conflict           409  the run's state forbids it
|- Forbidden          403  wrong origin, or no right to
|- Unauthorized       401
|- TooLarge           413
|- TooMany            429  a limit is reached; try later
|- Unavailable        503  database or broker is not there, or busy
`- Fenced             409  this attempt was superseded; its writes are refused
"""

from __future__ import annotations

from typing import ClassVar


class TrainyardError(Exception):
    status: ClassVar[int] = 500
    code: ClassVar[str] = "error"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def payload(self) -> dict[str, dict[str, str]]:
        error = {"code": self.code, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        return {"error": error}


class Invalid(TrainyardError):
    status, code = 422, "invalid"


class NotFound(TrainyardError):
    status, code = 404, "not_found"


class Conflict(TrainyardError):
    status, code = 409, "conflict"


class Fenced(Conflict):
    code = "fenced"


class Forbidden(TrainyardError):
    status, code = 403, "forbidden"


class Unauthorized(TrainyardError):
    status, code = 401, "unauthorized"


class TooLarge(TrainyardError):
    status, code = 413, "too_large"


class TooMany(TrainyardError):
    status, code = 429, "too_many"


class Unavailable(TrainyardError):
    status, code = 503, "unavailable"
