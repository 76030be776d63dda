"""Tokens and passwords from the command line, for who may read the database: `python -m app.token_command list`.

`trainyard token` and `trainyard password` run the same. Nobody can lock themselves out: this asks for no token.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import sys
import time
from collections.abc import Sequence
from getpass import getpass
from typing import Any

from app import tokens
from app.access import describe
from app.db import Database
from app.errors import Invalid, TrainyardError, Unavailable
from app.listing import iso
from app.migrate import migrate
from app.models import Token
from app.scopes import Scope
from app.settings import get_settings, make_data_dir

HOURS = {"h": 1, "d": 24, "w": 7 * 24}


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    settings = get_settings()
    make_data_dir(settings)
    os.umask(0o077)
    database = Database(settings.database_url)
    try:
        _bring_up_to_date(database, settings.database_url)
        asked.act(database, asked)
    except TrainyardError as error:
        print(f"trainyard: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, Invalid) else 1
    finally:
        database.dispose()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.token_command", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, act: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=act.__doc__)
        made.set_defaults(act=act)
        return made

    scopes = [scope.value for scope in Scope]
    create = command("create", create_token)
    create.add_argument("name")
    create.add_argument("--scope", choices=scopes, default=Scope.SUBMIT.value)
    create.add_argument("--expires", default="")
    command("list", list_tokens).add_argument("--json", action="store_true")
    command("revoke", revoke_token).add_argument("name")
    command("clear", clear_tokens).add_argument("--yes", action="store_true")
    password = command("password", set_password)
    password.add_argument("name")
    password.add_argument("--scope", choices=scopes)
    return parser


def _bring_up_to_date(database: Database, url: str) -> None:
    """Before the first `trainyard up` there are no tables yet, and it may be wanted with a token from the start."""
    try:
        with database.read() as s:
            tokens.any_made(s)
    except Unavailable as error:
        if "no tables" not in error.message:
            raise
        migrate(url)


def create_token(database: Database, asked: argparse.Namespace) -> None:
    """Print a new token, once."""
    days = read_days(asked.expires) if asked.expires else None
    with database.begin() as s:
        first = not tokens.any_made(s)
        made = tokens.create_token(s, asked.name, Scope(asked.scope), _me(), days)
    print(made.secret)
    say = [f"This is the token {made.token.name!r} with the scope {asked.scope}; it is not shown again."]
    if made.token.expires_at is not None:
        say.append(f"It expires at {iso(made.token.expires_at)}.")
    if first:
        say.append("It is the first: from now on everybody has to sign in or send a token.")
    print("\n".join(say), file=sys.stderr)


def list_tokens(database: Database, asked: argparse.Namespace) -> None:
    """Print all tokens and passwords, without their secrets."""
    with database.read() as s:
        found = tokens.list_tokens(s)
    if asked.json:
        print(json.dumps([describe(token, time.time()) for token in found], indent=2))
        return
    if not found:
        print("No token yet. Make one with: trainyard token create NAME --scope submit")
        return
    head = ("Name", "Kind", "Scope", "Begins", "State", "Made", "By", "Last used", "Expires")
    rows = [head, *(_row(token) for token in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _row(token: Token) -> tuple[str, ...]:
    facts = describe(token, time.time())
    return (
        token.name,
        token.kind,
        token.scope,
        token.prefix and f"{token.prefix}...",
        facts["state"],
        _minute(token.created_at),
        token.created_by,
        _minute(token.last_used_at),
        _minute(token.expires_at),
    )


def _minute(at: float | None) -> str:
    text = iso(at)
    return f"{text[:16].replace('T', ' ')} UTC" if text else "-"


def revoke_token(database: Database, asked: argparse.Namespace) -> None:
    """Revoke the token and the password of this name; servers refuse them within two seconds."""
    with database.begin() as s:
        found = tokens.find_named(s, asked.name)
        tokens.revoke(s, found)
    kinds = " and the ".join(token.kind for token in found)
    print(f"Revoked the {kinds} {asked.name!r}. Sessions that it opened have ended.")


def clear_tokens(database: Database, asked: argparse.Namespace) -> None:
    """Delete every token and password: a server on this machine alone then asks for none."""
    if not asked.yes and input("Delete every token and password? Type yes: ").strip() != "yes":
        print("Nothing was deleted.")
        return
    with database.begin() as s:
        count = tokens.forget_all(s)
    print(f"Deleted {count}. Without TRAINYARD_TOKEN a server on this machine alone now asks for none.")


def set_password(database: Database, asked: argparse.Namespace) -> None:
    """Set the password that a person signs in with; asked for at the terminal, or one line of standard input."""
    if sys.stdin.isatty():
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            raise Invalid("the two are not the same; nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\n")
    scope = Scope(asked.scope) if asked.scope else None
    with database.begin() as s:
        token = tokens.set_password(s, asked.name, scope, password, _me())
    print(f"{token.name!r} signs in with this password now, with the scope {token.scope}.")


def read_days(text: str) -> float:
    """`90d`, `12h` or `2w` in days. Raises: Invalid."""
    found = re.fullmatch(r"(\d{1,6})([hdw])", text.strip())
    if found is None:
        raise Invalid(f"{text!r} is no time; write 12h, 90d or 2w", "expires")
    return int(found[1]) * HOURS[found[2]] / 24


def _me() -> str:
    """The account that runs this, as who made a token."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "command line"


if __name__ == "__main__":
    sys.exit(main())
