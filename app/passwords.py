"""Passwords as they are stored: scrypt (RFC 7914) with a salt and the cost beside the hash.

The cost, N = 2^14, r = 8, p = 5, is one that the OWASP Password Storage Cheat Sheet names; it takes 16 MB of memory.
Standard library alone: argon2 would be another compiled package for a guess that costs as much.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from base64 import b64decode, b64encode

from app.errors import Invalid, TooMany

N, R, P = 2**14, 8, 5
SALT_BYTES, HASH_BYTES = 16, 32
MIN_LENGTH = 15  # NIST SP 800-63B-4, section 3.1.1.2, for a password that is the only factor
MAX_LENGTH = 200
MIN_DIFFERENT = 5
AT_ONCE = 2  # hashes; guesses must not take the processors from those who are signed in
PATIENCE_S = 2.0
_turns = threading.BoundedSemaphore(AT_ONCE)


def check_strength(password: str, name: str) -> None:
    """Raises: Invalid for a password that is easily guessed."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise Invalid(
            f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters; four or five words do", "password"
        )
    rest = password.lower().replace(name.lower(), "")
    if len(set(rest)) < MIN_DIFFERENT:
        raise Invalid("this password repeats too few characters; take four or five words", "password")


def hash_password(password: str) -> str:
    """`scrypt$N$r$p$salt$hash`."""
    salt = secrets.token_bytes(SALT_BYTES)
    parts = (salt, _scrypt(password, salt, N, R, P))
    return "$".join(["scrypt", str(N), str(R), str(P), *(b64encode(part).decode() for part in parts)])


def verify_password(password: str, stored: str | None) -> bool:
    """Whether it is the password; None takes as long, so that names cannot be found out by the time it takes.

    Raises: TooMany when others are being checked already.
    """
    n, r, p, salt, expected = _read(stored or _NOBODY)
    if not _turns.acquire(timeout=PATIENCE_S):
        raise TooMany("many people sign in right now; try again in a few seconds")
    try:
        given = _scrypt(password[: MAX_LENGTH + 1], salt, n, r, p)
    finally:
        _turns.release()
    return hmac.compare_digest(given, expected) and stored is not None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2 * 128 * n * r, dklen=HASH_BYTES
    )


def _read(stored: str) -> tuple[int, int, int, bytes, bytes]:
    _scheme, n, r, p, salt, expected = stored.split("$")
    return int(n), int(r), int(p), b64decode(salt), b64decode(expected)


_NOBODY = "$".join(["scrypt", str(N), str(R), str(P), "AAAA", b64encode(bytes(HASH_BYTES)).decode()])
