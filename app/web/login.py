"""Signing in with the token: a form, a cookie, and a limit on guesses."""

from __future__ import annotations

import hmac
import time
from collections import deque
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app.security import SESSION_COOKIE, SESSION_S, make_session
from app.web.contexts import LoginPage
from app.web.deps import AppSettings, Posted
from app.web.i18n import _
from app.web.render import local_url, render

router = APIRouter()

MAX_WRONG = 20
WINDOW_S = 60.0
_wrong: deque[float] = deque(maxlen=MAX_WRONG)


@router.get("/login", name="page_login")
def login_page(
    request: Request, next_path: Annotated[str, Query(alias="next", max_length=2_000)] = "/"
) -> Response:
    return render(request, LoginPage(local_path(next_path), ""))


@router.post("/login", name="login")
def login(request: Request, settings: AppSettings, posted: Posted) -> Response:
    """Set the session cookie and go on. 401 for a wrong token; 429 after 20 wrong ones within a minute."""
    target = local_path(posted.get("next", "/"))
    at = time.monotonic()
    if len(_wrong) == MAX_WRONG and at - _wrong[0] < WINDOW_S:
        response = render(
            request, LoginPage(target, _("Too many wrong tokens; wait a minute and try again.")), 429
        )
        response.headers["retry-after"] = "60"
        return response
    if not settings.token or not hmac.compare_digest(
        posted.get("token", "").strip().encode(), settings.token.encode()
    ):
        _wrong.append(at)
        return render(request, LoginPage(target, _("That is not the token of this server.")), 401)
    answer = RedirectResponse(target, 303)
    secure = request.url.scheme == "https"
    value = make_session(settings.token, time.time())
    answer.set_cookie(
        SESSION_COOKIE, value, SESSION_S, httponly=True, samesite="strict", secure=secure, path="/"
    )
    return answer


@router.post("/logout", name="logout")
def logout(request: Request) -> Response:
    answer = RedirectResponse(local_url(request, "page_login"), 303)
    answer.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def local_path(path: str) -> str:
    """The path when it stays on this server, `/` otherwise: a browser reads `//host` and `/\\host` as another one."""
    plain = all(character > " " and character != "\\" for character in path)
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"
