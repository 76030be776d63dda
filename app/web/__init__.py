"""HTML routes: one frozen dataclass a template."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response


def install(app: FastAPI) -> None:
    """Add the pages to the application."""


def wants_page(request: Request) -> bool:
    return not request.url.path.startswith(
        ("/api/", "/healthz", "/readyz")
    ) and "text/html" in request.headers.get("accept", "")


def error_page(request: Request, status: int, message: str) -> Response:
    return HTMLResponse(message, status)
