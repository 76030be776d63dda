"""What the commands that ask a server share: their options, how they print, and how their errors end them.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 canceled or paused, 4 no server answers, 130 interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from trainyard.client import Client
from trainyard.errors import NotReachable, TrainyardError
from trainyard.flags import flag
from trainyard.operations import AsJson as AsJson

CLI_RETRY_S = 1.0  # a person waits for the answer
FAILED, USAGE, NOT_REACHABLE, INTERRUPTED = 1, 2, 4, 130
USAGE_STATUS = (400, 401, 403, 404, 422)  # the request was wrong; the server is well

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

Runs = Annotated[list[str], typer.Argument(help="Ids of runs.", show_default=False, metavar="RUN...")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="TRAINYARD_URL", help="Address of the server.", show_default="http://127.0.0.1:8000"
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="TRAINYARD_TOKEN", help="The server's token, if it has one.", show_default=False
    ),
]


@contextmanager
def connected(url: str | None, token: str | None) -> Iterator[Client]:
    """A client whose errors end the command with a message and the right exit code."""
    try:
        with Client(url, token, retry_s=CLI_RETRY_S) as client:
            yield client
    except ValueError as error:
        raise typer.BadParameter(f"--url: {error}") from None
    except NotReachable as error:
        hint = "Start it with `trainyard up`; for one elsewhere give --url or TRAINYARD_URL."
        fail(NOT_REACHABLE, error.message, hint)
    except TrainyardError as error:
        field = f"{_flag_of(error.field)}: " if error.field else ""
        hint = (
            "Give the server's token with --token or TRAINYARD_TOKEN." if error.status in (401, 403) else ""
        )
        fail(USAGE if error.status in USAGE_STATUS else FAILED, f"{field}{error.message}", hint)
    except KeyboardInterrupt:
        fail(INTERRUPTED, "Interrupted; runs on the server go on.")


def _flag_of(field: str) -> str:
    """The flag that a field of the request comes from: `spec.lr` is --lr."""
    first, *inner = field.removeprefix("spec.").split(".")
    return " ".join([flag(first), *inner])


def fail(code: int, message: str, hint: str = "") -> NoReturn:
    errors.print(Text(f"Error: {message}", style="red"), soft_wrap=True)
    if hint:
        errors.print(Text(hint), soft_wrap=True)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))
