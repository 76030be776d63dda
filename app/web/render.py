"""Rendering: one environment an application, one frozen dataclass a template."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from app.db import Database
from app.security import SESSION_COOKIE
from app.settings import ROOT, Settings
from app.web.i18n import TRANSLATIONS
from app.web.words import script_words


@dataclass(frozen=True)
class Page:
    """Base of every page: its template, and the entry of the navigation that it belongs to."""

    template: ClassVar[str]
    section: ClassVar[str] = ""


@dataclass(frozen=True)
class Layout:
    """What the frame around every page shows."""

    section: str
    signed_in: bool
    version: str
    words: dict[str, str]


def make_environment(app: FastAPI) -> Environment:
    """Templates are *.html only and escape everything; `url_for` gives paths, with the proxy's prefix."""
    environment = Environment(
        loader=FileSystemLoader(ROOT / "templates"),
        autoescape=True,
        extensions=["jinja2.ext.i18n"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    translate = cast(Any, environment)
    translate.install_gettext_translations(TRANSLATIONS, newstyle=False)
    prefix = app.root_path.rstrip("/")

    def url_for(route: str, /, **params: Any) -> str:
        return prefix + str(app.url_path_for(route, **params))

    environment.globals["url_for"] = url_for
    return environment


def render(request: Request, page: Page, status: int = 200) -> Response:
    environment = cast(Environment, request.app.state.templates)
    layout = Layout(page.section, SESSION_COOKIE in request.cookies, request.app.version, script_words())
    context = {field.name: getattr(page, field.name) for field in fields(page)}
    html = environment.get_template(page.template).render(**context, layout=layout)
    return HTMLResponse(html, status, {"cache-control": "no-store"})


def database(request: Request) -> Database:
    return cast(Database, request.app.state.db)


def app_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def local_url(request: Request, route: str, /, **params: Any) -> str:
    """The path of a route, with the proxy's prefix."""
    prefix = cast(str, request.app.root_path).rstrip("/")
    return prefix + str(request.app.url_path_for(route, **params))
