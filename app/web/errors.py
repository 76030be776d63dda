"""Errors as pages, for those who ask for one."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from app.web.contexts import ErrorPage
from app.web.i18n import _, sentence
from app.web.render import render

NO_PAGES = ("/api/", "/static/", "/healthz", "/readyz", "/openapi.json")


def wants_page(request: Request) -> bool:
    return not request.url.path.startswith(NO_PAGES) and "text/html" in request.headers.get("accept", "")


def error_page(request: Request, status: int, message: str) -> Response:
    titles = {
        401: (_("Please sign in"), ""),
        403: (_("Not allowed"), _("If you have another token, sign out and sign in with that one.")),
        404: (_("Nothing here"), _("The run may have been deleted, or the address is misspelt.")),
        405: (_("Not possible here"), ""),
        409: (
            _("Not in this state"),
            _("The run has moved on since the page was drawn. Go back and reload."),
        ),
        422: (_("That does not fit"), ""),
        429: (_("Too many"), ""),
        500: (_("Something went wrong"), _("Your runs go on: they do not depend on this page.")),
        503: (_("Not available right now"), _("Runs that train go on. Reload in a moment.")),
    }
    title, advice = titles.get(status, (_("Error"), ""))
    response = render(request, ErrorPage(status, title, sentence(message), advice), status)
    if status in (429, 503):
        response.headers["retry-after"] = "2"
    return response
