"""Signing in with a token or a password: a form, a cookie, and a limit on guesses."""

from __future__ import annotations

import math
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app.access import Access, Caller
from app.errors import Forbidden, TooMany
from app.guard import SESSION_COOKIE
from app.guesses import Guesses
from app.web.contexts import LoginPage
from app.web.deps import Posted
from app.web.i18n import _, sentence
from app.web.render import access, local_url, render

router = APIRouter()

_guesses = (
    Guesses()
)  # of this process; scripts' wrong tokens are counted apart, so that one cannot lock out people


@router.get("/login", name="page_login")
def login_page(
    request: Request, next_path: Annotated[str, Query(alias="next", max_length=2_000)] = "/"
) -> Response:
    return render(request, LoginPage(local_path(next_path), "", "", access(request).is_wanted))


@router.post("/login", name="login")
def login(request: Request, posted: Posted) -> Response:
    """Set the session cookie and go on. 401 for a wrong token; 429 after 20 wrong ones within a minute."""
    target, name = local_path(posted.get("next", "/")), posted.get("name", "").strip()[:100]
    address, at = request.client.host if request.client else "", time.monotonic()

    def again(message: str, status: int) -> Response:
        return render(request, LoginPage(target, name, message, access(request).is_wanted), status)

    wait_s = _guesses.wait_s(address, at)
    if wait_s:
        response = again(_("Too many wrong tokens; wait a minute and try again."), 429)
        response.headers["retry-after"] = str(math.ceil(wait_s))
        return response
    try:
        caller = _who(access(request), name, posted.get("token", ""))
        if caller is None:
            _guesses.count(address, at)
            wrong = (
                _("This name and password do not fit.") if name else _("That is not a token of this server.")
            )
            return again(wrong, 401)
        return sign_in(request, caller, target)
    except (Forbidden, TooMany) as error:
        return again(sentence(error.message), error.status)


def _who(access: Access, name: str, secret: str) -> Caller | None:
    at = time.time()
    return access.by_token(secret.strip(), at) or (access.by_password(name, secret, at) if name else None)


def sign_in(request: Request, caller: Caller, target: str) -> Response:
    """Open a session and go on. Raises: Forbidden when the token was revoked a moment ago."""
    answer = RedirectResponse(target, 303)
    set_session(request, answer, caller)
    return answer


def set_session(request: Request, answer: Response, caller: Caller) -> None:
    value, good_for_s = access(request).open_session(caller, time.time())
    secure = request.url.scheme == "https"
    answer.set_cookie(
        SESSION_COOKIE, value, good_for_s, httponly=True, samesite="strict", secure=secure, path="/"
    )


@router.post("/logout", name="logout")
def logout(request: Request) -> Response:
    answer = RedirectResponse(local_url(request, "page_login"), 303)
    answer.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def local_path(path: str) -> str:
    """The path when it stays on this server, `/` otherwise: a browser reads `//host` and `/\\host` as another one."""
    plain = all(character > " " and character != "\\" for character in path)
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"
