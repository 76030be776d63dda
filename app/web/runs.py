"""The runs page: all runs, live. Its address says which, in which order, with which columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.responses import Response

from app import listing, query
from app.db import now
from app.errors import Invalid
from app.fields import RUN_FIELDS, Field, parse_name
from app.listing import Filter, Listed
from app.models import STATES, Run
from app.web import presets, table
from app.web.contexts import RunsPage
from app.web.deps import AppSettings, Db
from app.web.forms import Choice
from app.web.i18n import _, ngettext, sentence
from app.web.render import local_url, render
from app.web.rows import make_rows, state_title
from ml.catalog import DATASETS, MODELS

router = APIRouter()

PAGE_ROWS = 50
FILTERS = ("q", "state", "model", "dataset", "tag", "experiment")
LENGTHS = {"q": 1_000_000, "cols": 4_000, "cursor": 4_000}  # the query tells its own bound


@dataclass
class Asked:
    """What the address asks for; what cannot be read is put right, with its trouble told."""

    texts: dict[str, str]
    here: str  # the page's path
    q: str  # as it was typed, also when it cannot be read
    troubles: dict[str, str] = field(default_factory=dict)

    @property
    def filters(self) -> dict[str, str]:
        return {name: self.texts[name] for name in FILTERS if self.texts[name]}

    def put_right(self, name: str, message: str) -> None:
        self.troubles.setdefault(name, sentence(message))
        self.texts[name] = listing.NEWEST_FIRST if name == "sort" else ""

    def wanted(self) -> Filter:
        """Raises: Invalid."""
        texts = self.texts
        return Filter(
            experiment=texts["experiment"] or None,
            state=[texts["state"]] if texts["state"] else [],
            model=[texts["model"]] if texts["model"] else [],
            dataset=[texts["dataset"]] if texts["dataset"] else [],
            tag=texts["tag"] or None,
            sort=texts["sort"],
            query=query.parse(texts["q"]),
        )

    def url(self, **changes: str) -> str:
        """This page's address with something else, from its first page on."""
        given = self.filters | {"sort": self.texts["sort"], "cols": self.texts["cols"]} | changes
        if given["sort"] == listing.NEWEST_FIRST:
            given["sort"] = ""
        return f"{self.here}?" + urlencode({name: text for name, text in given.items() if text}, safe="/,")


@router.get("/", name="page_runs")
def runs_page(request: Request, db: Db, settings: AppSettings) -> Response:
    asked = _read_address(request)
    fields = _read_columns(asked)
    with db.read() as s:
        wanted, listed = _list(s, asked)
        page = _page(s, asked, wanted, listed, fields)
    if not page.rows and not page.filtered:
        page = replace(page, presets=presets.forms(settings.datasets_dir))
    return render(request, page, 422 if asked.troubles else 200)


def _read_address(request: Request) -> Asked:
    """Every part of the address; `text`, which older links have, is a query for just that text."""
    given = request.query_params
    typed = given.get("q", "") or query.quote(given.get("text", ""))
    texts = {name: given.get(name, "").strip() for name in (*FILTERS, "cursor")} | {"q": typed.strip()}
    texts |= {"sort": given.get("sort") or listing.NEWEST_FIRST, "cols": ",".join(given.getlist("cols"))}
    asked = Asked(texts, local_url(request, "page_runs"), typed)
    for name, text in list(texts.items()):
        if "\0" in text and name != "q":
            asked.put_right(name, "must not contain NUL characters")
        elif len(text) > LENGTHS.get(name, table.MAX_TEXT):
            asked.put_right(name, f"must have at most {LENGTHS.get(name, table.MAX_TEXT):,} characters")
    return asked


def _read_columns(asked: Asked) -> list[Field]:
    """The columns that were asked for, the usual ones without; the canonical list goes back into the address."""
    found: dict[str, Field] = {}
    for name in filter(None, (part.strip() for part in asked.texts["cols"].split(","))):
        try:
            column = parse_name(name, "cols")
        except Invalid as error:
            asked.troubles.setdefault("cols", sentence(error.message))
            continue
        if column.name not in table.ALWAYS:
            found.setdefault(column.name, column)
    fields = list(found.values())[: table.MAX_COLUMNS] or table.default_fields()
    names = ",".join(column.name for column in fields)
    asked.texts["cols"] = "" if names == ",".join(column.name for column in table.default_fields()) else names
    return fields


def _list(s: Session, asked: Asked) -> tuple[Filter, Listed]:
    """The page that was asked for, without what does not fit."""
    while True:
        try:
            wanted = asked.wanted()
            return wanted, listing.list_page(s, wanted, limit=PAGE_ROWS, cursor=asked.texts["cursor"] or None)
        except Invalid as error:
            if error.field is None or error.field in asked.troubles or error.field not in asked.texts:
                raise
            asked.put_right(error.field, error.message)


def _page(s: Session, asked: Asked, wanted: Filter, listed: Listed, fields: Sequence[Field]) -> RunsPage:
    runs = listing.get_runs(s, [run_id for run_id, _revision in listed.rows])
    counts = listing.count_states(s)
    order = listing.read_order(wanted.sort)
    filters = asked.filters
    params, metrics = listing.list_recent_fields(s)

    def sorted_url(sort: str) -> str:
        return asked.url(sort=sort)

    return RunsPage(
        name_head=table.make_head(RUN_FIELDS["name"], order, sorted_url),
        heads=[table.make_head(column, order, sorted_url) for column in fields],
        rows=_lines(s, runs, fields),
        q=asked.q,
        q_error=asked.troubles.get("q", ""),
        notices=[_notice(name, why) for name, why in asked.troubles.items() if name != "q"],
        selects=_selects(s, asked, counts),
        hidden={name: asked.texts[name] for name in ("sort", "cols") if asked.texts[name]},
        kept=filters | ({"sort": wanted.sort} if wanted.sort != listing.NEWEST_FIRST else {}),
        filtered=bool(filters) or bool(asked.q.strip()),
        summary=_summary(counts, listing.count_runs(s, wanted) if filters else None),
        columns=table.chooser(fields, params, metrics),
        default_columns_url=asked.url(cols=""),
        newest_url=asked.url() if listed.newer and asked.texts["cursor"] else None,
        newer_url=asked.url(cursor=listed.newer) if listed.newer else None,
        older_url=asked.url(cursor=listed.older) if listed.older else None,
        presets=[],
    )


def _lines(s: Session, runs: Sequence[Run], fields: Sequence[Field]) -> list[table.Line]:
    summaries = listing.read_summaries(s, [run.id for run in runs])
    at = now(s)
    rows = make_rows(s, runs)
    return [
        table.make_line(run, row, summaries[run.id], fields, at) for run, row in zip(runs, rows, strict=True)
    ]


def _notice(name: str, why: str) -> str:
    titles = {
        "sort": _("Sorted by the newest instead: {why}"),
        "cols": _("A column is left out: {why}"),
        "cursor": _("From the first page on instead: {why}"),
    }
    return titles.get(name, _("This filter is left out: {why}")).format(why=why)


def _selects(s: Session, asked: Asked, counts: dict[str, int]) -> list[table.Select]:
    offered: list[tuple[str, str, list[tuple[str, str]]]] = [
        ("state", _("Any state"), [(name, f"{state_title(name)} ({counts[name]:,})") for name in STATES]),
        ("model", _("Any model"), [(m.name, _(m.title)) for m in MODELS.values()]),
        ("dataset", _("Any dataset"), [(d.name, _(d.title)) for d in DATASETS.values()]),
        ("tag", _("Any tag"), [(tag, tag) for tag in listing.list_recent_tags(s)]),
        (
            "experiment",
            _("Any experiment"),
            [(name, f"{name} ({count:,})") for name, count in listing.list_experiments(s)],
        ),
    ]
    selects = []
    for name, title, choices in offered:
        chosen = asked.texts[name]
        if chosen and chosen not in dict(choices):
            choices.insert(0, (chosen, chosen))
        selects.append(
            table.Select(name, title, [Choice(value, text, value == chosen) for value, text in choices])
        )
    return [select for select in selects if select.choices]


def _summary(counts: dict[str, int], fitting: int | None) -> str:
    total = sum(counts.values())
    if fitting is not None and fitting > listing.MOST_COUNTED:
        return _("more than {n} of {total} runs fit").format(
            n=f"{listing.MOST_COUNTED:,}", total=f"{total:,}"
        )
    if fitting is not None:
        return _("{n} of {total} runs fit").format(n=f"{fitting:,}", total=f"{total:,}")
    parts = [ngettext("{n} run", "{n} runs", total).format(n=f"{total:,}")]
    for state in ("running", "queued", "failed"):
        if counts[state]:
            parts.append(_("{n} {state}").format(n=f"{counts[state]:,}", state=state_title(state)))
    return " · ".join(parts)
