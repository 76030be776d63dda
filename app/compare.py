"""Pure functions over the specs of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def differing_fields(specs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Fields whose values are not the same in all specs, with one value a spec, in the order of the specs.

    Nested fields are named by their path (`model_options.activation`); a spec without the field has None there.
    """
    flat = [flatten(spec) for spec in specs]
    names = dict.fromkeys(name for spec in flat for name in spec)
    columns = {name: [spec.get(name) for spec in flat] for name in names}
    return {name: values for name, values in columns.items() if any(not same(v, values[0]) for v in values)}


def same(a: Any, b: Any) -> bool:
    """Equal as settings: 1 and 1.0 are the same number, 1 and True are not the same setting."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def flatten(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A spec's values by their path: options are `model_options.activation` and the like."""
    found: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{name}.")
        elif not isinstance(value, Mapping):
            found[f"{prefix}{name}"] = value
    return found
