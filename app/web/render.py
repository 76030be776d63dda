"""Rendering: one environment an application, one frozen dataclass a template."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, cast

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from app.access import Access, Caller
from app.db import Database
from app.scopes import Scope
from app.security import CALLER
from app.settings import ROOT, Settings
from app.web import i18n
from app.web.modules import imported
from app.web.words import script_words

KEPT_URLS = 8_192  # a page of a hundred runs asks for hundreds, and finding a route costs about a millisecond


@dataclass(frozen=True)
class Page:
    """Base of every page: its template, and the entry of the navigation that it belongs to."""

    template: ClassVar[str]
    section: ClassVar[str] = ""


@dataclass(frozen=True)
class OtherLanguage:
    """A language that the reader may switch to: `title` is its own name, `tag` what it is called in HTML."""

    name: str
    title: str
    tag: str


@dataclass(frozen=True)
class Layout:
    """What the frame around every page shows."""

    section: str
    signed_in: bool
    who: str
    denied: dict[str, str]  # by scope: why the reader may not do what needs it, empty when they may
    version: str
    words: dict[str, str]
    language: str
    others: list[OtherLanguage]
    here: str


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
    translate.install_gettext_callables(i18n._, i18n.ngettext, newstyle=False)
    prefix = app.root_path.rstrip("/")

    @lru_cache(maxsize=KEPT_URLS)
    def path_of(route: str, params: tuple[tuple[str, Any], ...]) -> str:
        return prefix + str(app.url_path_for(route, **dict(params)))

    def url_for(route: str, /, **params: Any) -> str:
        return path_of(route, tuple(params.items()))

    environment.globals["url_for"] = url_for
    environment.globals["imported"] = imported
    return environment


def render(request: Request, page: Page, status: int = 200) -> Response:
    environment = cast(Environment, request.app.state.templates)
    language = i18n.language.get()
    asks = caller(request)
    layout = Layout(
        section=page.section,
        signed_in=asks is not None and asks.token_id is not None,
        who=asks.name if asks else "",
        denied={scope.value: _denial(asks, scope) for scope in (Scope.SUBMIT, Scope.ADMIN)},
        version=request.app.version,
        words=script_words(),
        language=i18n.TAGS[language],
        others=[
            OtherLanguage(name, title, i18n.TAGS[name])
            for name, title in i18n.LANGUAGES.items()
            if name != language
        ],
        here=_here(request, page),
    )
    context = {field.name: getattr(page, field.name) for field in fields(page)}
    html = environment.get_template(page.template).render(**context, layout=layout)
    headers = {
        "cache-control": "no-store",
        "content-language": i18n.TAGS[language],
        "vary": "Accept-Language, Cookie",
    }
    return HTMLResponse(html, status, headers)


def _denial(asks: Caller | None, scope: Scope) -> str:
    if asks is not None and asks.scope.covers(scope):
        return ""
    reasons = {
        Scope.SUBMIT: i18n._(
            "You may look, but not start or change runs: that needs a token with the scope submit."
        ),
        Scope.ADMIN: i18n._("You may not do this: it needs a token with the scope admin."),
    }
    return reasons[scope]


def _here(request: Request, page: Page) -> str:
    """Where the switch of languages comes back to: this address, or the section that answered a form."""
    if request.method != "GET":
        return local_url(request, f"page_{page.section or 'runs'}")
    prefix, path = cast(str, request.app.root_path).rstrip("/"), request.url.path
    query = f"?{request.url.query}" if request.url.query else ""
    return (path if path.startswith(f"{prefix}/") else prefix + path) + query


def caller(request: Request) -> Caller | None:
    """Who asks; None for a stranger on a page that is for everyone."""
    return cast(Caller | None, request.scope.get(CALLER))


def access(request: Request) -> Access:
    return cast(Access, request.app.state.access)


def database(request: Request) -> Database:
    return cast(Database, request.app.state.db)


def app_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def local_url(request: Request, route: str, /, **params: Any) -> str:
    """The path of a route, with the proxy's prefix."""
    return cast(str, request.app.state.templates.globals["url_for"](route, **params))
