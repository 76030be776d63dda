"""HTML routes: one frozen dataclass per template."""

from __future__ import annotations

from fastapi import FastAPI

from app.web import compare, edit, language, login, match, new, preflight, run, runs, system, tokens, wrong
from app.web.errors import error_page, wants_page
from app.web.language import LanguageMiddleware
from app.web.render import make_environment

__all__ = ["error_page", "install", "wants_page"]


def install(app: FastAPI) -> None:
    """Add the pages to the application."""
    app.state.templates = make_environment(app)
    for module in (runs, edit, new, preflight, run, compare, match, wrong, system, login, tokens, language):
        app.include_router(module.router, include_in_schema=False)
    app.add_middleware(LanguageMiddleware)
