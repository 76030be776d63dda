"""Bodies of requests: closed, bounded, strict. The tables are elsewhere; these are what may come in."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.labels import check_label
from ml.spec import RunSpec

MAX_DEPTH = 20


def storable(value: Any, depth: int = 0) -> Any:
    """The value, if every database can store it and JSON can tell it again.

    Raises: ValueError for NaN and infinity, NUL characters, halves of surrogate pairs, and too deep a nest.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"must not be nested more than {MAX_DEPTH} deep")
    match value:
        case str() if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError("must not contain NUL characters or halves of surrogate pairs")
        case float() if not math.isfinite(value):
            raise ValueError("must not contain NaN or infinity; send them as text")
        case dict():
            for key, inner in value.items():
                storable(key, depth)
                storable(inner, depth + 1)
        case list():
            for inner in value:
                storable(inner, depth + 1)
    return value


Storable = AfterValidator(storable)
Label = AfterValidator(check_label)
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), Storable, Label]
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), Storable, Label]
Notes = Annotated[str, Field(max_length=10_000), Storable]
Tags = Annotated[list[Tag], Field(max_length=32)]
MetricName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_ ./:@()%+-]*$", max_length=200)
]
MAX_STEP = 2**53
MAX_TIME = 1e11  # Unix seconds
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]
NonFinite = Literal["NaN", "Infinity", "-Infinity"]
MAX_BATCH = 500_000


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RunBody(Body):
    """A run to create: `spec` for a training, or `external` with `params` for one that an outside script drives."""

    spec: RunSpec | None = Field(None, description="What to train; every field has a default.")
    external: bool = Field(False, description="True: no worker trains it; a script sends its metrics.")
    params: Annotated[dict[str, Any], Storable] = Field(
        default_factory=dict, max_length=200, description="For an external run."
    )
    name: Name | None = None
    experiment: Name | None = None
    tags: Tags = Field(default_factory=list)
    notes: Notes = ""

    @model_validator(mode="after")
    def _one_kind(self) -> RunBody:
        if self.external and self.spec is not None:
            raise ValueError("give `spec` or `external`, not both")
        if not self.external and self.spec is None:
            raise ValueError(
                "`spec` is required (or `external`: true); an empty object {} takes every default"
            )
        if not self.external and self.params:
            raise ValueError("`params` belongs to an external run; a training's settings go into `spec`")
        return self


class PreflightBody(Body):
    spec: RunSpec = Field(description="What would be trained; every field has a default.")


class ExperimentBody(Body):
    """Runs for every combination of `vary`, everything else as in `spec`."""

    name: Name
    spec: dict[str, Any] = Field(default_factory=dict, description="Shared fields of the spec.")
    vary: dict[str, Annotated[list[Any], Field(min_length=1, max_length=100)]] = Field(
        default_factory=dict, description='For example {"model": ["lenet", "resnet8"], "seed": [0, 1, 2]}.'
    )
    tags: Tags = Field(default_factory=list)


class EditBody(Body):
    name: Name | None = None
    experiment: Name | None = None
    tags: Tags | None = None
    notes: Notes | None = None


class BulkBody(Body):
    """One action on many runs; `add` and `remove` are tags, for `tag` alone."""

    runs: Annotated[
        list[Annotated[str, StringConstraints(max_length=32), Storable]],
        Field(min_length=1, max_length=1_000),
    ]
    action: Literal["cancel", "delete", "tag"]
    add: Tags = Field(default_factory=list)
    remove: Tags = Field(default_factory=list)

    @model_validator(mode="after")
    def _tags_belong_to_tag(self) -> BulkBody:
        if (self.action == "tag") != bool(self.add or self.remove):
            raise ValueError("give `add` or `remove` with the action tag, and with no other")
        return self


class FinishBody(Body):
    state: Literal["finished", "failed", "canceled"] = "finished"
    error: Notes | None = None


class DrainBody(Body):
    now: bool = Field(
        False, description="True: give its runs back at once, after a checkpoint; else let them end first."
    )


class MetricsBody(Body):
    """Columns: `values[m][i]` was measured at `step[i]` (and `time[i]`, Unix seconds). Null: nothing measured there."""

    batch: Annotated[str, StringConstraints(min_length=1, max_length=200), Storable] | None = Field(
        None, description="An id of your choice; a batch that was taken already changes nothing."
    )
    step: list[Step] = Field(min_length=1, max_length=MAX_BATCH)
    time: list[Annotated[float, Field(ge=0, le=MAX_TIME, allow_inf_nan=False)]] | None = None
    values: dict[MetricName, list[float | NonFinite | None]] = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _same_length(self) -> MetricsBody:
        for name, column in [("time", self.time), *((f"values.{m}", v) for m, v in self.values.items())]:
            if column is not None and len(column) != len(self.step):
                raise ValueError(
                    f"{name} has {len(column)} entries, step has {len(self.step)}; make them equally long"
                )
        return self
