"""Command line flags made from RunSpec's JSON schema, so that a new field of the spec is a new flag."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from ml.catalog import DATASETS
from ml.spec import RunSpec

PANEL = "What to train"
TYPES: dict[str, type] = {"integer": int, "number": float, "string": str, "boolean": bool}
OPTIONS_FIELD = "model_options"  # an object, given as --option name=value


def flag(field: str) -> str:
    return "--option" if field == OPTIONS_FIELD else "--" + field.replace("_", "-")


def with_spec_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one optional flag for each flat field of RunSpec, passed on as keyword arguments."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    made = [_parameter(name, field) for name, field in _fields().items() if name != OPTIONS_FIELD]
    parameters = [*own, *made]

    def called(*args: Any, **values: Any) -> None:
        command(*args, **values)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called


def _fields() -> dict[str, dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = RunSpec.model_json_schema()["properties"]
    return fields


def _parameter(name: str, field: Mapping[str, Any]) -> inspect.Parameter:
    kind, bounds = _kind(field)
    default = field.get("default")
    shown = f"default: {default}" if default is not None else "default: all"
    words = [str(field.get("description", "")), f"[{'; '.join(part for part in (bounds, shown) if part)}]"]
    option = typer.Option(flag(name), help=" ".join(words).replace("[", r"\["), rich_help_panel=PANEL)
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]  # made at run time
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(field: Mapping[str, Any]) -> tuple[Any, str]:
    """The Python type of a field, and its bounds or choices in words."""
    schemas = [field, *field.get("anyOf", [])]
    found = next(schema for schema in schemas if schema.get("type") in TYPES)
    if "enum" in found:
        return str, "|".join(found["enum"])
    low = found.get("minimum", found.get("exclusiveMinimum"))
    high = found.get("maximum", found.get("exclusiveMaximum"))
    if low is None or high is None:
        return TYPES[found["type"]], ""
    return TYPES[found["type"]], f"{'over ' if 'exclusiveMinimum' in found else ''}{low:,} to {high:,}"


def read_spec(
    file: str | None,
    flags: Mapping[str, Any],
    options: list[str],
    stdin: Callable[[], str],
    *,
    whole: bool = True,
) -> dict[str, Any]:
    """The spec's fields as given: those of the file, with the flags on top; checked against RunSpec where they are the
    `whole` spec.

    What is registered on the server is not known here: a spec with another data set than the built-in ones is left
    to the server to judge.

    Raises: typer.BadParameter that names the flag.
    """
    spec = _read_file(file, stdin) if file is not None else {}
    spec |= {name: value for name, value in flags.items() if value is not None}
    if options:
        spec[OPTIONS_FIELD] = {**spec.get(OPTIONS_FIELD, {}), **dict(_option(text) for text in options)}
    if not whole or spec.get("dataset", "mnist") not in DATASETS:
        return spec
    try:
        RunSpec.model_validate(spec)
    except ValidationError as error:
        raise typer.BadParameter(
            "; ".join(_explain(e["loc"], e["msg"], file is not None) for e in error.errors())
        ) from None
    return spec


def _read_file(file: str, stdin: Callable[[], str]) -> dict[str, Any]:
    try:
        text = stdin() if file == "-" else Path(file).read_text()
        spec = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--file: cannot read {file}: {error}") from None
    except ValueError as error:
        raise typer.BadParameter(f"--file: {file} is no JSON: {error}") from None
    if not isinstance(spec, dict):
        example = json.dumps({"model": "lenet", "lr": 0.01})
        raise typer.BadParameter(f"--file: {file} must hold one object, such as {example}")
    return spec


def _option(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise typer.BadParameter(f"--option: {text!r} is not of the form name=value, such as activation=relu")
    try:
        return name, json.loads(value)  # 0.5 is a number, true a boolean
    except ValueError:
        return name, value


def _explain(where: tuple[int | str, ...], message: str, from_file: bool) -> str:
    message = message.removeprefix("Value error, ")
    field, *inner = (str(part) for part in where)
    if field not in RunSpec.model_fields:
        return f"there is no field {field!r} in a spec" + (" (--file)" if from_file else "")
    return f"{' '.join([flag(field), *inner])}: {message}"
