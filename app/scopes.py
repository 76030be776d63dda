"""Scopes, each with all rights of those before it, and which one a request needs.

Reading needs `read`, and what is listed here needs `submit`. Everything else that changes something needs `admin`: a
route that nobody thought of is closed, not open.
"""

from __future__ import annotations

import re
from enum import StrEnum

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Scope(StrEnum):
    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def covers(self, needed: Scope) -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(needed)


PUBLIC_READS = frozenset({"/healthz", "/readyz", "/login"})  # readiness tells strangers no reasons
PUBLIC_WRITES = frozenset({"/login", "/language"})
ADMIN_PREFIXES = ("/tokens", "/api/v1/tokens")
READ_ROUTES = frozenset({("POST", "/logout")})
# Of these, deleting in bulk asks for admin itself: the body says what is done.
SUBMIT_ROUTES = frozenset(
    {
        ("POST", "/new"),
        ("POST", "/new/preflight"),
        ("POST", "/presets/{name}"),
        ("POST", "/compare/match"),
        ("POST", "/bulk"),
        ("POST", "/runs/{run_id}/edit"),
        ("POST", "/runs/{run_id}/cancel"),
        ("POST", "/runs/{run_id}/pause"),
        ("POST", "/runs/{run_id}/resume"),
        ("POST", "/runs/{run_id}/clone"),
        ("POST", "/api/v1/runs"),
        ("POST", "/api/v1/runs/bulk"),
        ("POST", "/api/v1/experiments"),
        ("POST", "/api/v1/preflight"),
        ("PATCH", "/api/v1/runs/{run_id}"),
        ("POST", "/api/v1/runs/{run_id}/cancel"),
        ("POST", "/api/v1/runs/{run_id}/pause"),
        ("POST", "/api/v1/runs/{run_id}/resume"),
        ("POST", "/api/v1/runs/{run_id}/clone"),
        ("POST", "/api/v1/runs/{run_id}/finish"),
        ("POST", "/api/v1/runs/{run_id}/metrics"),
    }
)
_SUBMIT = [(method, re.compile(re.sub(r"\{\w+\}", "[^/]+", path))) for method, path in SUBMIT_ROUTES]


def is_public(method: str, path: str) -> bool:
    """Whether anyone may ask this: liveness, signing in, and static files, which are the same for everyone."""
    if method not in SAFE_METHODS:
        return path in PUBLIC_WRITES
    return path in PUBLIC_READS or path.startswith("/static/")


def needed_scope(method: str, path: str) -> Scope:
    """What a request needs; `path` is the one that the router matches, without a proxy's prefix."""
    if path.startswith(ADMIN_PREFIXES):
        return Scope.ADMIN
    if method in SAFE_METHODS or (method, path) in READ_ROUTES:
        return Scope.READ
    if any(method == known and pattern.fullmatch(path) for known, pattern in _SUBMIT):
        return Scope.SUBMIT
    return Scope.ADMIN
