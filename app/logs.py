"""Log lines of every process: one record a line, as text for people or as JSON, with the run that it is about.

A record says what it belongs to by `bind` (this thread or request) and `bind_process` (a trainer: one run for its whole
life), not by each call. What came from outside can neither begin a line of its own nor move a terminal's cursor:
control characters are written as escapes, the further lines of an error are indented. Passwords in URLs and bearer
tokens are never written.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from app.settings import Settings

# Libraries that tell at INFO what our own records say already, or nothing of use.
CHATTY = ("alembic", "amqp", "asyncio", "celery", "httpcore", "httpx", "kombu", "multiprocessing", "redis")
SECRETS = re.compile(r"(?<=://)([^\s:/@'\"\\]*):[^\s@'\"\\]+@|(?<=\bbearer )[^\s'\"\\]+", re.IGNORECASE)
# C0 and C1 but the line feed, Unicode's line separators and direction marks, and halves of characters.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
JSON_FIELDS = {"levelname": "level", "name": "logger", "process": "pid", "exc_info": "error"}

_bound: ContextVar[dict[str, object]] = ContextVar("log_fields")
_bound_process: dict[str, object] = {}


def configure(settings: Settings) -> None:
    """Send this process's records to standard error, in the format and from the level that the settings name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(add_fields)
    handler.setFormatter(_json_formatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    quiet = root.level if root.level == logging.DEBUG else max(root.level, logging.WARNING)
    for name in CHATTY:
        logging.getLogger(name).setLevel(quiet)
    logging.getLogger("uvicorn").setLevel(max(root.level, logging.WARNING))  # it tells what `app` has told
    logging.getLogger("uvicorn.error").addFilter(_is_not_told_twice)
    logging.captureWarnings(capture=True)


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Fields of every record that this thread or task writes inside, such as run=, attempt=, request=."""
    token = _bound.set({**_bound.get({}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def bind_process(**fields: object) -> None:
    """Fields of every record that this process writes from here on, in any thread."""
    _bound_process.update(fields)


def add_fields(record: logging.LogRecord) -> bool:
    """A filter that refuses nothing: it gives the record what is bound where it was written."""
    fields = {**_bound_process, **_bound.get({})}
    record._fields = fields
    for name, value in fields.items():
        if name not in record.__dict__:
            setattr(record, name, value)
    return True


class TextFormatter(logging.Formatter):
    """`2026-08-01T12:00:00.250Z WARNING app.reaper [run=abc attempt=2] message`; what follows is indented."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(bracket)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "_fields", {}).items())
        record.bracket = f"[{fields}] " if fields else ""
        return escape(super().format(record)).replace("\n", "\n    ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        return super().formatMessage(record) + record.message.replace("\n", "\\n")


def escape(text: str) -> str:
    r"""The text without secrets, its control characters but line feeds as escapes: `\x1b`, `\u202e`."""
    text = SECRETS.sub(lambda found: f"{found[1]}:***@" if found[1] is not None else "***", text)
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # only where it is asked for

    class Formatter(JsonFormatter):
        """Every text without secrets; the rest JSON escapes itself, line feeds too."""

        converter = staticmethod(time.gmtime)
        default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"

        def format(self, record: logging.LogRecord) -> str:
            return escape(super().format(record))

    fields = ["asctime", "levelname", "name", "message", "process"]
    return Formatter(
        fields, rename_fields={"asctime": "time", **JSON_FIELDS}, rename_fields_keep_missing=False
    )


def _is_not_told_twice(record: logging.LogRecord) -> bool:
    """uvicorn repeats what `app.main` has written with its incident's number."""
    return not record.getMessage().startswith("Exception in ASGI application")
