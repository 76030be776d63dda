"""Who may ask what: host names, origins, tokens and scopes, checked before any route.

A page that someone visits must not be able to start code on their GPU. So a request must name a host that we answer to
(against DNS rebinding), an unsafe method must come from our own pages or from no page at all (against cross-site
requests), and beyond loopback, or once a token was made, everybody must say who they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from app.access import ANYONE, Access, Caller
from app.errors import Forbidden, TooMany, Unauthorized
from app.guesses import Guesses
from app.scopes import SAFE_METHODS, is_public, needed_scope
from app.settings import Settings

SESSION_COOKIE = "trainyard_session"
OUR_PAGES = (
    None,
    "same-origin",
    "none",
)  # Sec-Fetch-Site; none: typed or a bookmark; absent: no browser, or no https


class BadHost(Forbidden):
    status, code = 400, "bad_host"


class TooManyGuesses(TooMany):
    """`retry_s`: when the next guess may be made."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many wrong tokens from this address; wait a minute, then send the right one")
        self.retry_s = math.ceil(wait_s)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(settings: Settings) -> frozenset[str]:
    """The exact Host headers that we answer to; a configured name without a port is taken with any."""
    names = {f"{name}:{settings.port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    if settings.port == 80:
        names |= {"127.0.0.1", "localhost", "[::1]"}
    return frozenset(
        names | {name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip()}
    )


@dataclass(frozen=True)
class Asked:
    """What the checks look at. `path` is without a proxy's prefix; `address` the client's, empty on a socket."""

    method: str
    scheme: str
    path: str
    address: str
    headers: Headers

    @property
    def host(self) -> str:
        return self.headers.get("host", "").lower()

    @property
    def is_public(self) -> bool:
        return is_public(self.method, self.path)


class Guard:
    """The checks of one request, each an error with its remedy or nothing."""

    def __init__(self, access: Access, hosts: frozenset[str]) -> None:
        self.access, self._hosts = access, hosts
        self._guesses = Guesses()

    def admit(self, asked: Asked) -> Caller | None:
        """Who asks; None for a stranger on a page that is for everyone.

        Raises: BadHost; Forbidden for a foreign origin; Unauthorized; TooManyGuesses.
        """
        self._check_host(asked)
        sent = _bearer(asked.headers)
        wanted = self.access.is_wanted
        caller = self._identify(asked, sent) if wanted else ANYONE
        # A page of another origin cannot make a browser send a token; with a cookie it might lean on that instead.
        by_token_alone = wanted and caller is not None and sent and "cookie" not in asked.headers
        _check_origin(asked, by_token_alone=bool(by_token_alone))
        if caller is None and not asked.is_public:
            self._refuse(asked, sent)
        return caller

    @staticmethod
    def check_scope(asked: Asked, caller: Caller | None) -> None:
        """Raises: Forbidden."""
        if caller is not None and not asked.is_public:
            caller.need(needed_scope(asked.method, asked.path))

    def _check_host(self, asked: Asked) -> None:
        host = asked.host
        if host not in self._hosts and host.rpartition(":")[0] not in self._hosts:
            raise BadHost(
                f"this server does not answer to the host {host[:200]!r}; "
                "if it should, add the name to TRAINYARD_ALLOWED_HOSTS"
            )

    def _identify(self, asked: Asked, sent: str | None) -> Caller | None:
        """By the token, and only without one by the session: who sends both means the token."""
        at = time.time()
        if sent is not None:
            return self.access.by_token(sent, at)
        session = _session(asked.headers)
        return self.access.by_session(session, at) if session else None

    def _refuse(self, asked: Asked, sent: str | None) -> None:
        """Raises: Unauthorized; TooManyGuesses in its place after many wrong tokens. A right one always gets in."""
        if sent is None:
            raise Unauthorized("send the token as `Authorization: Bearer ...`, or sign in at /login")
        at = time.monotonic()
        wait_s = self._guesses.wait_s(asked.address, at)
        if wait_s:
            raise TooManyGuesses(wait_s)
        self._guesses.count(asked.address, at)
        raise Unauthorized(
            "this token is wrong, revoked or expired; ask whoever runs this server for another"
        )


def _check_origin(asked: Asked, *, by_token_alone: bool) -> None:
    """Raises: Forbidden."""
    site = asked.headers.get("sec-fetch-site")
    if asked.method in SAFE_METHODS:
        if asked.path.startswith("/api/") and site not in OUR_PAGES:
            raise Forbidden("another site's page may not read this API")
        return
    if site not in OUR_PAGES:
        raise Forbidden("another site's page may not do this; use the dashboard or a script")
    origin = asked.headers.get("origin", "").lower()
    if "origin" not in asked.headers or origin == f"{asked.scheme}://{asked.host}" or by_token_alone:
        return
    if origin == f"https://{asked.host}":
        raise Forbidden(
            "the page came by https, but this server was asked by http; name the proxy in TRAINYARD_TRUSTED_PROXIES"
        )
    raise Forbidden("the request comes from another origin; use the dashboard or a script")


def _bearer(headers: Headers) -> str | None:
    """The token that was sent. Other kinds of Authorization are for a proxy before us, which may pass them on."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if kind.lower() == "bearer" else None


def _session(headers: Headers) -> str | None:
    return cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE)


def needs_token(host: str, *, is_wanted: bool) -> str | None:
    """Why this address may not be bound, or None: beyond loopback anyone could start code on this machine."""
    if is_loopback(host) or is_wanted:
        return None
    return (
        f"refusing to listen on {host} without a token: anyone who reaches it could start code on this machine. "
        "Make one with `trainyard token create NAME --scope admin`, or set TRAINYARD_TOKEN to a long random text "
        "(`python -c 'import secrets; print(secrets.token_urlsafe(32))'` prints one), "
        "or use --host 127.0.0.1"
    )


def weak_token(tokens: Sequence[str]) -> str | None:
    """Why a token of the environment is too weak to use, or None."""
    if any(token and len(token) < 16 for token in tokens):
        return "TRAINYARD_TOKEN is too short to be safe: use at least 16 random characters"
    return None
