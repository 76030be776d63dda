"""`trainyard token` and `trainyard password`: who may do what on the server of this machine.

They go to its database, not to its address: nobody can lock themselves out.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from trainyard.become import become
from trainyard.operations import AsJson, DataDir


class Scope(StrEnum):
    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


ScopeOf = Annotated[
    Scope, typer.Option("--scope", help="read: look; submit: also start and stop runs; admin: everything.")
]
token_app = typer.Typer(
    no_args_is_help=True, help="Tokens of the server on this machine: make, list, revoke."
)
password_app = typer.Typer(no_args_is_help=True, help="Passwords of people who sign in on the pages.")


@token_app.command("create")
def create_token(
    name: Annotated[
        str, typer.Argument(help="Who uses it, such as alice-laptop; runs tell it as who started them.")
    ],
    scope: ScopeOf = Scope.SUBMIT,
    expires: Annotated[
        str | None,
        typer.Option(help="Good for so long: 12h, 90d or 2w.", show_default="until it is revoked"),
    ] = None,
    data_dir: DataDir = None,
) -> NoReturn:
    """Print a new token, this once. From the first one on everybody has to sign in or send one."""
    _manage(
        data_dir, "create", "--scope", scope.value, *(["--expires", expires] if expires else []), "--", name
    )


@token_app.command("list")
def list_tokens(as_json: AsJson = False, data_dir: DataDir = None) -> NoReturn:
    """Show all tokens and passwords, without their secrets."""
    _manage(data_dir, "list", *(["--json"] if as_json else []))


@token_app.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(help="The token and the password of this name.")],
    data_dir: DataDir = None,
) -> NoReturn:
    """Take a token or password back: it opens nothing any more within two seconds."""
    _manage(data_dir, "revoke", "--", name)


@token_app.command("clear")
def clear_tokens(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, data_dir: DataDir = None
) -> NoReturn:
    """Delete every token and password: a server on this machine alone then asks for none."""
    _manage(data_dir, "clear", *(["--yes"] if yes else []))


@password_app.command("set")
def set_password(
    name: Annotated[str, typer.Argument(help="Who signs in with it.")],
    scope: Annotated[
        Scope | None, typer.Option(help="What they may do.", show_default="as before, or submit")
    ] = None,
    data_dir: DataDir = None,
) -> NoReturn:
    """Set the password of a person, asked for at the terminal or read from standard input."""
    _manage(data_dir, "password", *(["--scope", scope.value] if scope else []), "--", name)


def _manage(data_dir: Path | None, *arguments: str) -> NoReturn:
    """Run a command on the database of this machine's server."""
    if data_dir is not None:
        os.environ["TRAINYARD_DATA_DIR"] = str(data_dir.expanduser().resolve())
    become("app.token_command", *arguments)
