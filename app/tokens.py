"""Tokens and passwords in the database: who may do what. The session comes first; nothing here commits.

A token is 256 random bits; its SHA-256 is stored, which is enough where nothing can be guessed: salt and slowness are
for passwords (app/passwords.py). The secret itself is shown once, when it is made.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, or_, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from app import passwords
from app.actor import USER
from app.db import now
from app.errors import Conflict, Invalid, NotFound
from app.models import Secret, Token
from app.scopes import Scope

TOKEN, PASSWORD = "token", "password"  # kinds
MARK = "ty_"  # begins every token, so that people and scanners of source code know one
SHOWN = 8  # letters of a token that stay readable: those of the mark and 30 of its 256 bits
MAX_NAME = 64
MAX_CURRENT = 1_000  # all of them are kept in memory, and read each second
RESERVED = frozenset({USER, "environment", "reaper", "worker"})  # actors that are no tokens
SESSION_KEY = "session key"
DAY_S = 86_400.0
MAX_DAYS = 3_650


@dataclass(frozen=True)
class Made:
    """A new token, and its secret, which is kept nowhere."""

    token: Token
    secret: str


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create_token(s: Session, name: str, scope: Scope, made_by: str, days: float | None = None) -> Made:
    """A new token, good for so many days (None: until it is revoked).

    Raises: Invalid for a name or a time that cannot be; Conflict for a name that is taken, or with too many tokens.
    """
    name = _check_name(name)
    if days is not None and not 0 < days <= MAX_DAYS:
        raise Invalid(f"a token is good for more than 0 and at most {MAX_DAYS} days", "expires_in_days")
    if _current(s, name, TOKEN) is not None:
        raise Conflict(f"there is a token {name!r} already; revoke it first, or choose another name", "name")
    if count_current(s) >= MAX_CURRENT:
        raise Conflict(f"there are {MAX_CURRENT} tokens already; revoke some", "name")
    secret = MARK + secrets.token_urlsafe(32)
    at = now(s)
    token = Token(
        id=secrets.token_hex(8),
        name=name,
        kind=TOKEN,
        scope=scope,
        digest=digest_of(secret),
        prefix=secret[:SHOWN],
        created_at=at,
        created_by=made_by,
        expires_at=None if days is None else at + days * DAY_S,
    )
    _add(s, token)
    return Made(token, secret)


def set_password(s: Session, name: str, scope: Scope | None, password: str, made_by: str) -> Token:
    """A new password for the person of this name, in place of the old one, whose sessions end.

    `scope` None keeps the old one's, and is `submit` for a new name. Raises: Invalid; Conflict with too many.
    """
    name = _check_name(name)
    passwords.check_strength(password, name)
    old = _current(s, name, PASSWORD)
    at = now(s)
    if old is not None:
        scope = scope or Scope(old.scope)
        revoke(s, [old])
        s.flush()
    elif count_current(s) >= MAX_CURRENT:
        raise Conflict(f"there are {MAX_CURRENT} tokens already; revoke some", "name")
    token = Token(
        id=secrets.token_hex(8),
        name=name,
        kind=PASSWORD,
        scope=scope or Scope.SUBMIT,
        digest=passwords.hash_password(password),
        created_at=at,
        created_by=made_by,
    )
    _add(s, token)
    return token


def _add(s: Session, token: Token) -> None:
    """Raises: Conflict when another of this name was made at the same moment."""
    try:
        with s.begin_nested():
            s.add(token)
    except IntegrityError:
        raise Conflict(f"there is a {token.kind} {token.name!r} already; try again", "name") from None


def _check_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > MAX_NAME:
        raise Invalid(f"a name has 1 to {MAX_NAME} characters; say who uses it, such as alice-laptop", "name")
    if not name.isprintable() or re.search(r"[\ud800-\udfff]", name):
        raise Invalid("a name has letters, digits, spaces and signs only, no control characters", "name")
    if name.lower() in RESERVED:
        raise Invalid(f"{name!r} is what events call others; say who uses it, such as alice-laptop", "name")
    return name


def _current(s: Session, name: str, kind: str) -> Token | None:
    return s.exec(
        select(Token).where(col(Token.name) == name, col(Token.kind) == kind, col(Token.revoked_at).is_(None))
    ).first()


def count_current(s: Session) -> int:
    return s.exec(select(func.count()).select_from(Token).where(col(Token.revoked_at).is_(None))).one()


def any_made(s: Session) -> bool:
    """Whether there ever was a token or password: then everybody has to sign in, also once all are revoked."""
    return s.exec(select(Token.id).limit(1)).first() is not None


def read_stamp(s: Session) -> tuple[float | None, ...]:
    """What changes with every token that is made or revoked, and with the session key; first the count of all."""
    revoked = col(Token.revoked_at)
    counted = select(func.count(), func.count(revoked), func.max(Token.created_at), func.max(revoked))
    keys = s.exec(select(func.count()).select_from(Secret)).one()
    return (*s.exec(counted.select_from(Token)).one(), keys)


def list_current(s: Session) -> list[Token]:
    """Those that were not revoked, and expired ones among them."""
    return list(s.exec(select(Token).where(col(Token.revoked_at).is_(None))).all())


def list_tokens(s: Session, limit: int = 2 * MAX_CURRENT) -> list[Token]:
    """Those in force first, each part with the newest first."""
    order = (col(Token.revoked_at).is_not(None), col(Token.created_at).desc(), col(Token.id))
    return list(s.exec(select(Token).order_by(*order).limit(limit)).all())


def state_of(token: Token, at: float) -> str:
    """`active`, `expired` or `revoked`."""
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= at else "active"


def get_token(s: Session, token_id: str) -> Token:
    """Raises: NotFound."""
    token = s.get(Token, token_id)
    if token is None:
        raise NotFound("there is no such token; GET /api/v1/tokens lists them")
    return token


def find_named(s: Session, name: str) -> list[Token]:
    """The token and the password of this name that are in force. Raises: NotFound when there is neither."""
    found = [token for token in list_current(s) if token.name == name]
    if not found:
        raise NotFound(f"there is no token or password {name!r}; `trainyard token list` shows them")
    return found


def revoke(s: Session, tokens: Sequence[Token]) -> None:
    """Revoking twice is no error."""
    at = now(s)
    for token in tokens:
        token.revoked_at = token.revoked_at or at
        s.add(token)


def forget_all(s: Session) -> int:
    """Delete every token and password, and the key of all sessions; how many there were."""
    count = s.exec(select(func.count()).select_from(Token)).one()
    s.execute(delete(Token))
    s.execute(delete(Secret).where(col(Secret.name) == SESSION_KEY))
    return count


def mark_used(s: Session, used: Mapping[str, float]) -> None:
    """When tokens were last used, by id; several web processes tell, the latest counts."""
    for token_id, at in used.items():
        s.execute(
            update(Token)
            .where(
                col(Token.id) == token_id,
                or_(col(Token.last_used_at).is_(None), col(Token.last_used_at) < at),
            )
            .values(last_used_at=at)
        )


def read_session_key(s: Session) -> bytes | None:
    found = s.get(Secret, SESSION_KEY)
    return bytes.fromhex(found.value) if found is not None else None


def make_session_key(s: Session) -> bytes:
    """The key that signs sessions, made when the first is opened; all web processes share it."""
    known = read_session_key(s)
    if known is not None:
        return known
    new = secrets.token_bytes(32)
    try:
        with s.begin_nested():
            s.add(Secret(name=SESSION_KEY, value=new.hex(), created_at=now(s)))
    except IntegrityError:  # another process was first
        new = read_session_key(s) or new
    return new
