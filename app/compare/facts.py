"""What the comparison needs to know of a run, and when two values are the same setting."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from app.models import Run
from ml.spec import in_todays_words


class Gap(Enum):
    """Why a run has no value under a key."""

    UNKNOWN = "unknown"  # it must have one, but has not said it (yet)
    UNUSED = "unused"  # it has none: the momentum of Adam, the dropout of LeNet


UNKNOWN: Final = Gap.UNKNOWN
UNUSED: Final = Gap.UNUSED


@dataclass(frozen=True)
class RunFacts:
    """One run: `spec` is what was asked for, `resolved` what that came to once the training began (before: empty)."""

    id: str
    name: str = ""
    kind: str = "training"  # or "external": `spec` holds an outside script's params, in whatever words
    state: str = "finished"
    spec: Mapping[str, Any] = field(default_factory=dict)
    resolved: Mapping[str, Any] = field(default_factory=dict)
    started_at: float | None = None  # Unix seconds


def facts_of(run: Run) -> RunFacts:
    return RunFacts(run.id, run.name, run.kind, run.state, spec_of(run), run.resolved, run.started_at)


def spec_of(run: Run) -> Mapping[str, Any]:
    """The run's spec in today's words; of an outside script what it said."""
    return in_todays_words(run.spec) if run.kind == "training" else run.spec


def same(a: Any, b: Any) -> bool:
    """Equal as settings: 1 and 1.0 are the same number, 1 and True are not the same setting."""
    return identity(a) == identity(b)


def identity(value: Any) -> Hashable:
    """A hashable stand-in: two values are the same setting when their stand-ins are equal. Takes any JSON, and Gap."""
    match value:
        case bool():
            return ("bool", value)
        case float() if value != value:
            return ("nan",)
        case Mapping():
            return ("map", frozenset((str(name), identity(part)) for name, part in value.items()))
        case list() | tuple():
            return ("list", *(identity(part) for part in value))
    known: Hashable = value
    return known


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by path, `model_options.activation`; an empty mapping has no fields."""
    found: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, Mapping):
            found |= flatten(part, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = part
    return found
