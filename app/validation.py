"""Messages for input that does not fit: which field, what is wrong, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ml.catalog import MODELS
from ml.spec import RunSpec

Located = Sequence[Mapping[str, Any]] | Sequence[ErrorDetails]


def explain(error: Mapping[str, Any], known: Iterable[str] = ()) -> str:
    """One sentence for one pydantic error, with the bound or the choices as the remedy."""
    kind, context = error["type"], error.get("ctx") or {}
    match kind:
        case "less_than_equal":
            return f"must be at most {_plain(context['le'])}"
        case "less_than":
            return f"must be less than {_plain(context['lt'])}"
        case "greater_than_equal":
            return f"must be at least {_plain(context['ge'])}"
        case "greater_than":
            return f"must be greater than {_plain(context['gt'])}"
        case "finite_number":
            return "must be a finite number, not NaN or infinity"
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "float_type" | "float_parsing":
            return "must be a number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_too_long":
            return f"must have at most {context['max_length']:,} characters"
        case "literal_error":
            return f"must be one of {_listed(str(context['expected']))}"
        case "missing":
            return "is required"
        case "json_invalid":
            return f"the body is not valid JSON: {context.get('error', '')}"
        case "extra_forbidden":
            return _unknown(str(error["loc"][-1]), known)
    message = str(error["msg"])
    return message.removeprefix("Value error, ")


def _listed(choices: str) -> str:
    """`'max', 'avg'` for pydantic's `'max' or 'avg'`: a list reads alike in every language."""
    return choices.replace(" or ", ", ")


def _plain(bound: float) -> str:
    whole = int(bound)
    return f"{whole:,}" if whole == bound else f"{bound:g}"


def _unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"there is no such field; did you mean {near[0]!r}?"
    return (
        f"there is no such field; known are {', '.join(names)}"
        if names
        else "there is no such field; leave it out"
    )


def field_name(location: Sequence[Any]) -> str:
    """`spec.model_options.activation` for ("body", "spec", "model_options", "activation")."""
    parts = list(location)
    if parts and parts[0] in ("body", "query", "path", "header"):
        parts = parts[1:]
    return ".".join(str(part) for part in parts)


def known_fields(location: Sequence[Any], model: object = None) -> list[str]:
    """The names that would have been right where an unknown field stood in a spec."""
    if "model_options" in location:
        return list(MODELS[str(model)].options.model_fields) if model in MODELS else []
    if "spec" in location or len(location) == 1:
        return list(RunSpec.model_fields)
    return []


def spec_errors(error: ValidationError, given: Mapping[str, Any]) -> dict[str, str]:
    """Message by field name, for a form: `{"lr": "must be at most 10"}`."""
    return {
        field_name(e["loc"]): explain(e, known_fields(e["loc"], given.get("model", "lenet")))
        for e in error.errors()
    }
