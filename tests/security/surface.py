"""Every place of the web process where a request may say something: paths, queries, bodies and forms of all routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount

from app.web.asked import NAMES as WRONG_NAMES
from app.web.forms import ENTRIES
from app.web.runs import FILTERS
from app.web.sweep import PARAMETERS as SWEEP_NAMES
from app.web.view import NAMES as VIEW_NAMES
from ml.spec import RunSpec

# What pages read from their address, and what they take from forms, beyond what their routes declare.
PAGE_NAMES = (
    *sorted({*VIEW_NAMES, *WRONG_NAMES, *SWEEP_NAMES, *FILTERS}),
    *(
        "sort",
        "cols",
        "cursor",
        "text",
        "metric",
        "at",
        "experiment",
        "action",
        "next",
        "model_options.activation",
    ),
)
FORM_NAMES = (
    *("next", "name", "token", "to", "key", "group", "runs", "baseline", "action", "run", "add", "remove"),
    *("notes", "scope", "days", *ENTRIES, *RunSpec.model_fields, "options.lenet.activation"),
)
# A body that is taken, for each operation that takes one.
BODIES: dict[str, Any] = {
    "POST /api/v1/runs": {
        "external": True,
        "name": "a",
        "experiment": "b",
        "tags": ["c"],
        "notes": "d",
        "params": {"e": "f", "g": {"h": ["i"]}},
    },
    "POST /api/v1/experiments": {
        "name": "a",
        "spec": {"model": "lenet", "dataset": "digits", "model_options": {"activation": "relu"}},
        "vary": {"optimizer": ["sgd"]},
        "tags": ["b"],
    },
    "POST /api/v1/preflight": {
        "spec": {"model": "lenet", "dataset": "digits", "model_options": {"activation": "relu"}}
    },
    "POST /api/v1/runs/bulk": {"runs": ["a"], "action": "tag", "add": ["b"], "remove": ["c"]},
    "PATCH /api/v1/runs/{run_id}": {"name": "a", "experiment": "b", "tags": ["c"], "notes": "d"},
    "POST /api/v1/runs/{run_id}/finish": {"state": "finished", "error": "a"},
    "POST /api/v1/runs/{run_id}/metrics": {"batch": "a", "step": [1], "values": {"b": ["NaN"]}},
    "POST /api/v1/tokens": {"name": "a", "scope": "read"},
    "POST /api/v1/workers/{name}/drain": {"now": False},
}


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    query: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of the parts of its path that are asked for."""
        return re.findall(r"{(\w+)}", self.path)

    def fill(self, given: dict[str, str]) -> str:
        return re.sub(r"{(\w+)}", lambda match: given[match[1]], self.path)


def list_routes(application: FastAPI) -> list[Route]:
    """All that answer, pages too, with every name that they look at in a query."""
    document = application.openapi()
    found = []
    for method, path in sorted(set(_walk(application.router.routes))):
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            query = PAGE_NAMES if method == "GET" else ()
        else:
            query = tuple(one["name"] for one in operation.get("parameters", []) if one["in"] == "query")
        found.append(Route(method, path, query))
    return found


def _walk(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:  # FastAPI keeps included routers whole
            yield from _walk(inner.routes)
        elif isinstance(route, Mount):
            yield "GET", f"{route.path}/{{path}}"
        else:
            path: str = getattr(route, "path")  # noqa: B009  # not every route has one
            for method in getattr(route, "methods", None) or ():
                yield method, path


def replace_texts(body: Any, text: str) -> Iterator[Any]:
    """The body again and again, each time with another of its texts (or of its keys) replaced."""
    match body:
        case str():
            yield text
        case list():
            for place, item in enumerate(body):
                for changed in replace_texts(item, text):
                    yield [*body[:place], changed, *body[place + 1 :]]
        case dict():
            for key, item in body.items():
                for changed in replace_texts(item, text):
                    yield {**body, key: changed}
                yield {**{k: v for k, v in body.items() if k != key}, text: item}
