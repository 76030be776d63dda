"""The language of a request: read from its headers, around every route, and changed by the switch in the top bar."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.web import i18n
from app.web.deps import Posted
from app.web.login import local_path

router = APIRouter()

COOKIE = "trainyard_language"
COOKIE_S = 365 * 24 * 3600


class LanguageMiddleware:
    """Sets the language before anything is written. It stays set: each request has a context of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
            i18n.language.set(i18n.choose(cookie, headers.get("accept-language", "")))
        await self._app(scope, receive, send)


@router.post("/language", name="set_language")
def set_language(request: Request, posted: Posted) -> Response:
    """Keep the chosen language for a year and go back; anything but a language of ours changes nothing."""
    answer = RedirectResponse(local_path(posted.get("next", "/")), 303)
    wanted = posted.get("to", "")
    if wanted in i18n.LANGUAGES:
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, wanted, COOKIE_S, httponly=True, samesite="lax", secure=secure, path="/")
    return answer
