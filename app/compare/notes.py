"""What is worth saying beside the verdict: machines and versions, settings without effect, updates, repeats."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from app.compare.design import distinct, known
from app.compare.facts import UNKNOWN, UNUSED, RunFacts, identity
from app.compare.keys import Key, Role
from app.compare.verdict import Note
from ml.catalog import DATASETS

Table = Mapping[Key, Mapping[str, Any]]


def make_notes(runs: Sequence[RunFacts], table: Table, settings: Sequence[str]) -> Iterator[Note]:
    """`settings`: those in which the runs differ."""
    columns = {key.name: column for key, column in table.items()}
    for key, column in table.items():
        if key.role is Role.NOTE and len(distinct(column)) > 1:
            yield Note("differs", key.name, known(column))
    asked = {run.id: run.spec["momentum"] for run in runs if "momentum" in run.spec}
    if UNUSED in columns["momentum"].values() and len(distinct(asked)) > 1 and "momentum" not in settings:
        yield Note("ignored", "momentum", asked)
    updates = {run.id: count for run in runs if (count := count_updates(columns, run)) is not None}
    if len(set(updates.values())) > 1:
        yield Note("updates", "updates", updates)
    strong = [column for key, column in table.items() if key.role is not Role.NOTE]
    again = _repeats(runs, strong, columns["seed"])
    if again:
        yield Note("repeats", "seed", again)


def count_updates(columns: Mapping[str, Mapping[str, Any]], run: RunFacts) -> int | None:
    """Optimizer steps in the whole run; None where batch size, epochs or the number of images is not known."""
    data = DATASETS.get(str(columns["dataset"][run.id]))
    images = columns["train_images"][run.id]
    if not _positive(images):
        images = columns["train_size"][run.id] or (data.train_size if data else None)
    batch, epochs = columns["batch_size"][run.id], columns["epochs"][run.id]
    if not (_positive(images) and _positive(batch) and _positive(epochs)):
        return None
    return int(epochs * -(-images // batch))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _repeats(
    runs: Sequence[RunFacts], columns: Sequence[Mapping[str, Any]], seeds: Mapping[str, Any]
) -> dict[str, Any]:
    """Runs with the same settings and the same known seed as another, with that seed."""
    cells: dict[tuple[Hashable, ...], list[str]] = {}
    for run in runs:
        if seeds[run.id] is not UNKNOWN:
            cells.setdefault(tuple(identity(column[run.id]) for column in columns), []).append(run.id)
    return {run: seeds[run] for ids in cells.values() if len(ids) > 1 for run in ids}
