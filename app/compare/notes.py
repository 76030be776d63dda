"""What is worth saying beside the verdict: machines and versions, settings without effect, updates, repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from app.compare.design import distinct, known
from app.compare.facts import UNKNOWN, UNUSED, RunFacts, identity
from app.compare.keys import Key, Role, whole_sizes
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
    cells = find_repeats(runs, table)
    again = Counter(cells.values())
    repeats = {run.id: columns["seed"][run.id] for run in runs if again[cells[run.id]] > 1}
    if repeats:
        yield Note("repeats", "seed", repeats)


def count_updates(columns: Mapping[str, Mapping[str, Any]], run: RunFacts) -> int | None:
    """Optimizer steps in the whole run; None where batch size, epochs or the number of images is not known."""
    images = columns["train_images"][run.id]
    if not _positive(images):
        data = DATASETS.get(str(columns["dataset"][run.id]))
        whole = whole_sizes(run, data).train if data else None
        images = columns["train_size"][run.id] or whole
    batch, epochs = columns["batch_size"][run.id], columns["epochs"][run.id]
    if not (_positive(images) and _positive(batch) and _positive(epochs)):
        return None
    return int(epochs * -(-images // batch))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def find_repeats(runs: Sequence[RunFacts], table: Table) -> dict[str, Hashable]:
    """A stand-in a run, by id: equal for runs with the same settings and the same known seed."""
    strong = [column for key, column in table.items() if key.role is not Role.NOTE]
    seeds = next(column for key, column in table.items() if key.name == "seed")
    return {
        run.id: run.id if seeds[run.id] is UNKNOWN else tuple(identity(column[run.id]) for column in strong)
        for run in runs
    }
