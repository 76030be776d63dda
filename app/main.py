"""The web application: routes, errors, security, and the threads and tasks that live with it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app import logs, web
from app.access import Access
from app.api import (
    artifacts,
    compare,
    events,
    export,
    groups,
    metrics,
    monitoring,
    points,
    predictions,
    preflight,
    runs,
    series,
    system,
    tokens,
)
from app.api.answers import AnswerCache
from app.api.contract import Application, allowed_methods
from app.briefs import BriefCache
from app.compaction import compact_some
from app.db import Database
from app.errors import TrainyardError
from app.guard import Guard, host_names, is_loopback
from app.live import Hub
from app.reaper import Reaper
from app.security import HEADERS, SecurityMiddleware
from app.settings import ROOT, Settings, get_settings, make_data_dir
from app.stopping import StoppingMiddleware
from app.ticker import Ticker
from app.traffic import TrafficMiddleware, make_histogram
from app.validation import explain, field_name, known_fields
from ml.catalog import DATASETS

log = logging.getLogger(__name__)


def _package_dir(name: str) -> Path:
    """Where a package lies, without importing it: both cost memory and give us only files."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


PLOTLY_DIR = _package_dir("plotly") / "package_data"
SWAGGER_DIR = _package_dir("fastapi_offline") / "static"


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or get_settings()
    make_data_dir(settings)
    app = Application(
        title="Trainyard",
        summary="Launch training runs, watch every step live, compare honestly.",
        version="1",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        root_path=settings.root_path,
    )
    app.state.settings = settings
    DATASETS.look_in(settings.datasets_dir)
    app.state.db = Database(settings.database_url)
    app.state.hub = Hub(app.state.db)
    app.state.access = Access(app.state.db, settings.token, beyond=not is_loopback(settings.host))
    app.state.briefs = BriefCache()
    app.state.answers = AnswerCache()
    app.state.registry = monitoring.make_registry(app.state.db, app.state.hub, settings)
    for router in (
        runs.router,
        runs.external,
        preflight.router,
        metrics.router,
        series.router,
        groups.router,
        points.router,
        events.router,
        system.router,
        monitoring.router,
        artifacts.router,
        predictions.router,
        compare.router,
        export.router,
        tokens.router,
    ):
        app.include_router(router)
    # Within the middleware of the language, which the pages bring: a refusal is a page too.
    guard = Guard(app.state.access, host_names(settings))
    app.add_middleware(StoppingMiddleware, refuse=_refuse)
    app.add_middleware(SecurityMiddleware, guard=guard, refuse=_refuse)
    web.install(app)
    app.mount("/static/plotly", StaticFiles(directory=PLOTLY_DIR), name="plotly")
    app.mount("/static/swagger", StaticFiles(directory=SWAGGER_DIR), name="swagger")
    app.mount("/static", StaticFiles(directory=ROOT / "static"), name="static")
    app.add_exception_handler(TrainyardError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_crash)
    app.add_middleware(TrafficMiddleware, histogram=make_histogram(app.state.registry))  # the outermost
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    tickers = (
        Ticker("reaper", Reaper(app.state.db, app.state.settings).tick),
        Ticker("compactor", partial(compact_some, app.state.db)),
        Ticker("access", app.state.access.tick),
    )
    app.state.hub.start()
    for ticker in tickers:
        ticker.start()
    yield
    await app.state.hub.stop()
    for ticker in tickers:
        ticker.stop()
    app.state.db.dispose()


def _answer(request: Request, status: int, code: str, message: str, field: str | None = None) -> Response:
    """An error as JSON for the API, as a page for a browser."""
    if web.wants_page(request):
        return web.error_page(request, status, message)
    error = {"code": code, "message": message} | ({"field": field} if field else {})
    headers = {"retry-after": "2"} if status in (429, 503) else {}
    return JSONResponse({"error": error}, status, headers)


def _refuse(request: Request, error: TrainyardError) -> Response:
    return _answer(request, error.status, error.code, error.message, error.field)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TrainyardError)
    return _refuse(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = field_name(first["loc"])
    model = first.get("input", {}).get("model") if isinstance(first.get("input"), dict) else None
    message = explain(first, known_fields(first["loc"], model))
    if first["type"] == "json_invalid":
        return _answer(request, 400, "invalid_json", message)
    return _answer(request, 422, "invalid", f"{field}: {message}" if field else message, field)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        400: "the body cannot be read as JSON",
        404: "there is nothing at this address",
        405: f"{request.method} is not possible here; see /docs for what is",
    }
    codes = {
        400: "invalid_json",
        404: "not_found",
        405: "method_not_allowed",
        408: "timeout",
        413: "too_large",
    }
    code = codes.get(error.status_code, "error")
    message = messages.get(error.status_code, str(error.detail))
    response = _answer(request, error.status_code, code, message)
    if error.status_code == 405:
        response.headers["allow"] = allowed_methods(request)
    return response


async def _on_crash(request: Request, error: Exception) -> Response:
    incident = secrets.token_hex(4)
    request_id = getattr(request.state, "request_id", "")
    with logs.bind(request=request_id):  # we are outside the middleware that bound it
        log.error("incident %s: %s %s", incident, request.method, request.url.path, exc_info=error)
    response = _answer(
        request, 500, "internal", f"something went wrong on our side; the log has it under {incident}"
    )
    # This answer is made outside the middlewares that set them.
    response.headers.update({**HEADERS, "x-request-id": request_id})
    return response
