"""The OpenAPI document, completed: each operation tells the errors that it can answer with, in their shape.

FastAPI knows only the 422 of its own making, in a shape that is not ours. Here the rules stand once, by what an
operation is asked, so that a new route is described like the others; a test sends thousands of requests and compares.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.routing import Match, Mount

from app.scopes import is_public, needed_scope
from ml.catalog import DATASETS

Json = dict[str, Any]

TITLES = {
    400: "The body is not JSON, or the host is not one that this server answers to",
    401: "The token is missing or wrong",
    403: "The token does not allow it, or another site's page asks",
    404: "There is no such run, or nothing at this address",
    409: "The run's state forbids it, or the key was used for something else",
    408: "The rest of the body did not come",
    413: "The body is too large",
    422: "A value does not fit; `field` names it",
    429: "A limit is reached; `Retry-After` says when to try again",
    503: "The database or the broker is away or busy; `Retry-After` says when to try again",
}
ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string", "description": "One word, for programs."},
                "message": {"type": "string", "description": "What is wrong and what to do, for people."},
                "field": {"type": "string", "description": "Where it is wrong: `spec.lr`, `metric`."},
            },
        }
    },
}
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
UNCHECKED = ("/healthz",)  # answers to everyone who names the right host


class Application(FastAPI):
    """FastAPI whose document tells every answer, and the data sets of the moment."""

    _datasets: tuple[str, ...] = ()

    def openapi(self) -> Json:
        names = tuple(DATASETS)
        if self.openapi_schema is None or names != self._datasets:
            self.openapi_schema, self._datasets = None, names  # a data set was registered or removed
            complete(super().openapi())  # which keeps what it made
        assert self.openapi_schema is not None
        return self.openapi_schema


def complete(document: Json) -> None:
    """Add the errors to every operation, and their schema instead of FastAPI's."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = ERROR
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            responses.pop("422", None)
            _tell_scope(method, path, operation)
            for status in sorted(_errors(method, path, operation)):
                responses.setdefault(str(status), _answer(status))


def _tell_scope(method: str, path: str, operation: Json) -> None:
    """What a token needs for this: in the text, which people read, and as a field, for programs."""
    if is_public(method.upper(), path):
        operation["security"] = []
        return
    scope = needed_scope(method.upper(), path)
    operation["x-scope"] = scope.value
    text = operation.get("description", "")
    operation["description"] = f"{text}\n\nNeeds the scope `{scope}`.".strip()


def _errors(method: str, path: str, operation: Json) -> set[int]:
    asked = {(one["in"], one["name"]) for one in operation.get("parameters", [])}
    found = {400}
    if path not in UNCHECKED:
        found |= {401, 403, 429, 503}
    if asked or "requestBody" in operation:
        found |= {422}
    if "requestBody" in operation:
        found |= {408, 413}
    if "{" in path or ("query", "run") in asked:
        found |= {404}
    if method in ("post", "delete"):
        found |= {409}
    return found


def _answer(status: int) -> Json:
    schema = {"$ref": "#/components/schemas/Error"}
    answer: Json = {"description": TITLES[status], "content": {"application/json": {"schema": schema}}}
    if status in (429, 503):
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}
    return answer


def allowed_methods(request: Request) -> str:
    """What a 405 says in `Allow` (RFC 9110, 15.5.6): the methods of all routes at this address, not of one."""
    routes = [route for route in request.app.router.routes if not isinstance(route, Mount)]
    found = [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ", ".join(found or ["GET", "HEAD"])  # of files in a folder
