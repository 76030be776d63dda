"""The summary table of a comparison: a row a run, a column a figure, sortable, with deltas to a baseline run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.models import Run
from app.results import Result
from app.web import formats
from app.web.figures import Figure, compare, figures, shown_metrics
from app.web.i18n import _
from app.web.rows import RunRow


@dataclass(frozen=True)
class Cell:
    """A figure: `value` is what is sorted by (empty: nothing), `note` stands under it.

    `delta` compares it with the baseline's; `mark` is better, worse, same or empty: in words, not only in colour.
    """

    text: str
    value: str
    note: str = ""
    delta: str = ""
    mark: str = ""
    title: str = ""


@dataclass(frozen=True)
class Column:
    """`key` names it in the address; `first` is a first click's sort, `wanted` the next's; `sorted` is aria-sort."""

    key: str
    title: str
    wanted: str
    first: str
    sorted: str
    starts_group: bool


@dataclass(frozen=True)
class ColumnGroup:
    title: str
    span: int


@dataclass(frozen=True)
class SummaryRow:
    run: RunRow
    name: str
    is_baseline: bool
    cells: list[Cell]


@dataclass(frozen=True)
class SummaryTable:
    groups: list[ColumnGroup]
    columns: list[Column]
    rows: list[SummaryRow]
    by_name: Column
    metrics_shown: int
    metrics_in_all: int
    all_metrics: bool
    baseline: str
    notices: list[str]


# -- the table --------------------------------------------------------------------------------------------------------


def make_table(
    runs: Sequence[Run],
    rows: Sequence[RunRow],
    names: Sequence[str],
    results: Mapping[str, Result],
    *,
    baseline: str | None,
    sort: str,
    everything: bool,
) -> SummaryTable:
    """`sort` is a column's key, with a leading minus for falling order; empty keeps the order of the runs."""
    in_order = [results[run.id] for run in runs]
    metrics, in_all = shown_metrics(in_order, everything=everything)
    columns = figures(in_order, metrics)
    base = next((run for run in runs if run.id == baseline), None)
    table = [
        SummaryRow(row, name, run.id == baseline, _cells(run, results[run.id], columns, base, results))
        for run, row, name in zip(runs, rows, names, strict=True)
    ]
    known = {"name", *(figure.key for figure in columns)}
    notices = []
    if sort and sort.removeprefix("-") not in known:
        notices.append(
            _("The table has no column “{name}” to sort by: the order of the runs is kept.").format(
                name=sort[:60]
            )
        )
        sort = ""
    return SummaryTable(
        groups=_groups(columns),
        columns=[_column(figure, sort, columns[i - 1] if i else None) for i, figure in enumerate(columns)],
        rows=_sorted(table, columns, sort),
        by_name=_heading("name", _("Run"), sort, "", starts_group=False),
        metrics_shown=len(metrics),
        metrics_in_all=in_all,
        all_metrics=everything,
        baseline=next((row.name for row in table if row.is_baseline), ""),
        notices=notices,
    )


def _cells(
    run: Run, result: Result, columns: Sequence[Figure], base: Run | None, results: Mapping[str, Result]
) -> list[Cell]:
    cells = []
    for figure in columns:
        value, note = figure.read(run, result)
        if value is None:
            cells.append(Cell(formats.DASH, "", title=figure.missing if result.reached else ""))
            continue
        delta, mark = "", ""
        if base is not None and base.id != run.id:
            other, _note = figure.read(base, results[base.id])
            if other is not None:
                delta, mark = compare(value, other, figure.delta, figure.better)
        cells.append(Cell(figure.write(value), repr(float(value)), note, delta, mark))
    return cells


def _groups(columns: Sequence[Figure]) -> list[ColumnGroup]:
    groups: list[ColumnGroup] = []
    for figure in columns:
        if groups and groups[-1].title == figure.group and figure.group:
            groups[-1] = ColumnGroup(figure.group, groups[-1].span + 1)
        else:
            groups.append(ColumnGroup(figure.group, 1))
    return groups


def _column(figure: Figure, sort: str, before: Figure | None) -> Column:
    first = "-" if figure.better == "higher" else ""
    starts = before is None or before.group != figure.group
    return _heading(figure.key, figure.title, sort, first, starts_group=starts)


def _heading(key: str, title: str, sort: str, first: str, *, starts_group: bool) -> Column:
    """`wanted` is the sort that a click now asks for: the better end first, then the other way round."""
    falling, name = sort.startswith("-"), sort.removeprefix("-")
    if name != key:
        return Column(key, title, first + key, first + key, "", starts_group)
    turned = key if falling else f"-{key}"
    return Column(key, title, turned, first + key, "descending" if falling else "ascending", starts_group)


def _sorted(rows: list[SummaryRow], columns: Sequence[Figure], sort: str) -> list[SummaryRow]:
    """By one column; what has no value there comes last either way."""
    if not sort:
        return rows
    falling, key = sort.startswith("-"), sort.removeprefix("-")
    if key == "name":
        return sorted(rows, key=lambda row: row.name.casefold(), reverse=falling)
    at = next(i for i, figure in enumerate(columns) if figure.key == key)
    have = [row for row in rows if row.cells[at].value]
    return [
        *sorted(have, key=lambda row: float(row.cells[at].value), reverse=falling),
        *(row for row in rows if not row.cells[at].value),
    ]
