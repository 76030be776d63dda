"""Who somebody is, by the token or session that they send: answered from memory, so that no request waits for it.

All tokens are read once a second (`tick`), and at once after this process changed them; so a revoked token is refused
within a second or two everywhere. While the database is away the last ones read stay good: nothing can be seen then.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from app import passwords, tokens
from app.db import Database
from app.errors import Forbidden
from app.listing import iso
from app.models import Token
from app.scopes import Scope

log = logging.getLogger(__name__)

SESSION_S = 30 * 24 * 3600
USED_S = 60.0  # how often the last use of a token is written
ENVIRONMENT = "environment"  # the id of TRAINYARD_TOKEN


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may do. `token_id` is None where no token is needed."""

    scope: Scope
    name: str = ""
    token_id: str | None = None

    def need(self, scope: Scope) -> None:
        """Raises: Forbidden."""
        if not self.scope.covers(scope):
            raise Forbidden(
                f"this needs the scope {scope}; your token has the scope {self.scope}: ask for another token"
            )


ANYONE = Caller(Scope.ADMIN)  # on this machine alone, before the first token is made


@dataclass(frozen=True)
class Known:
    """What is kept in memory of a token."""

    caller: Caller
    kind: str
    digest: str
    expires_at: float | None = None

    def is_good(self, at: float) -> bool:
        return self.expires_at is None or self.expires_at > at


@dataclass(frozen=True)
class Book:
    """All tokens as they were last read. `by_digest` has tokens alone: a password opens nothing but a session."""

    by_digest: dict[str, Known] = field(default_factory=dict)
    by_id: dict[str, Known] = field(default_factory=dict)
    session_key: bytes | None = None
    stamp: tuple[float | None, ...] = (0,)

    @property
    def any_made(self) -> bool:
        return bool(self.stamp[0])


class Access:
    """The tokens of this installation. `beyond` says that other machines can ask: then nobody gets in without one."""

    def __init__(self, db: Database, environment_token: str, *, beyond: bool) -> None:
        self._db, self._beyond = db, beyond
        self._environment: Known | None = None
        if environment_token:
            caller = Caller(Scope.ADMIN, token_id=ENVIRONMENT)
            self._environment = Known(caller, tokens.TOKEN, tokens.digest_of(environment_token))
        self._book: Book | None = None
        self._used: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._lock, self._reading = threading.Lock(), threading.Lock()

    @property
    def is_loaded(self) -> bool:
        return self._book is not None

    @property
    def is_wanted(self) -> bool:
        """Whether everybody has to say who they are."""
        return self._beyond or self._environment is not None or self._read().any_made

    def _read(self) -> Book:
        return self._book or Book()

    # -- keeping up ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Write down who was here, and read the tokens again. Raises: Unavailable."""
        self.write_used()
        self.refresh()

    def refresh(self) -> None:
        """Raises: Unavailable; the tokens read before stay."""
        with self._reading:  # one after the other, or an older reading might replace a newer one
            with self._db.read() as s:
                stamp = tokens.read_stamp(s)
                if self._book is not None and self._book.stamp == stamp:
                    return
                current = tokens.list_current(s)
                key = tokens.read_session_key(s)
            known = {token.id: _known(token) for token in current}
            self._book = Book(
                by_digest={one.digest: one for one in known.values() if one.kind == tokens.TOKEN},
                by_id=known,
                session_key=key,
                stamp=stamp,
            )

    def write_used(self) -> None:
        """Raises: Unavailable; what could not be written is forgotten, it is no more than a hint."""
        with self._lock:
            due = {one: at for one, at in self._used.items() if at - self._written.get(one, 0) > USED_S}
            self._used.clear()
        if due:
            self._written |= due
            with self._db.begin() as s:
                tokens.mark_used(s, due)

    # -- who is it ----------------------------------------------------------------------------------------------------

    def by_token(self, secret: str, at: float) -> Caller | None:
        """Who sends this token; None for a wrong, revoked or expired one."""
        digest = tokens.digest_of(secret)
        # A digest found in a table tells an attacker nothing by its time: they cannot choose what SHA-256 makes.
        known = self._read().by_digest.get(digest) or self._environment
        if known is None or not hmac.compare_digest(known.digest, digest) or not known.is_good(at):
            return None
        return self._note(known.caller, at)

    def by_password(self, name: str, password: str, at: float) -> Caller | None:
        """Who signs in with this name and password. Takes half a second. Raises: TooMany."""
        of_name = (
            one
            for one in self._read().by_id.values()
            if (one.kind, one.caller.name) == (tokens.PASSWORD, name)
        )
        known = next(of_name, None)
        right = passwords.verify_password(password, known.digest if known else None)
        return self._note(known.caller, at) if known is not None and right and known.is_good(at) else None

    def by_session(self, value: str, at: float) -> Caller | None:
        """Whose session this cookie is; it ends with its token, and when that is given another secret."""
        token_id, _, rest = value.partition(".")
        expires, _, signature = rest.partition(".")
        known = self._find(token_id)
        key = self._read().session_key
        if known is None or key is None or not (expires.isascii() and expires.isdigit()):
            return None
        good = hmac.compare_digest(signature.encode(), _sign(key, token_id, expires, known.digest).encode())
        if not good or int(expires[:15]) <= at or not known.is_good(at):
            return None
        return self._note(known.caller, at)

    def open_session(self, caller: Caller, at: float) -> tuple[str, int]:
        """A cookie for who has just signed in, and for how many seconds it is good.

        Raises: Forbidden when the token was revoked meanwhile; Unavailable.
        """
        key = self._read().session_key
        if key is None:
            with self._db.begin() as s:
                key = tokens.make_session_key(s)
            self.refresh()
        token_id = caller.token_id or ""
        known = self._find(token_id)
        if known is None:
            raise Forbidden("this token was revoked a moment ago; sign in with another")
        expires_at = int(min(at + SESSION_S, known.expires_at or at + SESSION_S))
        expires = str(expires_at)
        return f"{token_id}.{expires}.{_sign(key, token_id, expires, known.digest)}", int(expires_at - at)

    def still_good(self, caller: Caller, at: float) -> bool:
        """Whether who was let in may stay: for streams, which are open for hours."""
        if caller.token_id is None:
            return not self.is_wanted
        known = self._find(caller.token_id)
        return known is not None and known.is_good(at)

    def _find(self, token_id: str) -> Known | None:
        return self._environment if token_id == ENVIRONMENT else self._read().by_id.get(token_id)

    def _note(self, caller: Caller, at: float) -> Caller:
        if caller.token_id != ENVIRONMENT and caller.token_id is not None:
            with self._lock:
                self._used[caller.token_id] = at
        return caller


def _known(token: Token) -> Known:
    caller = Caller(Scope(token.scope), token.name, token.id)
    return Known(caller, token.kind, token.digest, token.expires_at)


def _sign(key: bytes, token_id: str, expires: str, digest: str) -> str:
    text = f"session:{token_id}:{expires}:{digest}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def describe(token: Token, at: float) -> dict[str, Any]:
    """As the API and the command line tell it: without its secret, and without its digest."""
    return {
        "id": token.id,
        "name": token.name,
        "kind": token.kind,
        "scope": token.scope,
        "prefix": token.prefix or None,
        "state": tokens.state_of(token, at),
        "created_at": iso(token.created_at),
        "created_by": token.created_by,
        "last_used_at": iso(token.last_used_at),
        "expires_at": iso(token.expires_at),
        "revoked_at": iso(token.revoked_at),
    }
