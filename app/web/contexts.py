"""One frozen dataclass a template: exactly the variables that it uses (tests/test_pages.py compares them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from app.web.forms import Choice, Field, FieldGroup, OptionGroup
from app.web.mistakes import Panel
from app.web.presets import PresetForm
from app.web.render import Page
from app.web.rows import RunRow
from app.web.specs import SpecTable
from app.web.statistics import StatisticsPanel
from app.web.summary import SummaryTable
from app.web.table import ColumnGroup, Head, Line, Select
from app.web.verdict import Banner
from app.web.view import View


@dataclass(frozen=True)
class Fact:
    """One line of a table: what, and how much. `url` leads further, where there is more."""

    title: str
    value: str
    url: str | None = None


@dataclass(frozen=True)
class RunsPage(Page):
    template: ClassVar[str] = "runs.html"
    section: ClassVar[str] = "runs"
    name_head: Head
    heads: list[Head]
    rows: list[Line]
    q: str
    q_error: str
    notices: list[str]
    selects: list[Select]
    hidden: dict[str, str]  # what the filters' form keeps
    kept: dict[str, str]  # what the columns' form keeps
    filtered: bool
    summary: str
    columns: list[ColumnGroup]
    default_columns_url: str
    newest_url: str | None
    newer_url: str | None
    older_url: str | None
    presets: list[PresetForm]


@dataclass(frozen=True)
class EditPage(Page):
    template: ClassVar[str] = "edit.html"
    section: ClassVar[str] = "runs"
    run_id: str
    name: str
    fields: list[Field]
    notes: str
    notes_error: str


@dataclass(frozen=True)
class BulkPage(Page):
    template: ClassVar[str] = "bulk.html"
    section: ClassVar[str] = "runs"
    title: str
    text: str
    button: str
    action: str
    rows: list[RunRow]
    add: str
    remove: str
    error: str
    outcome: str
    failures: list[Fact]


@dataclass(frozen=True)
class NewPage(Page):
    template: ClassVar[str] = "new.html"
    section: ClassVar[str] = "new"
    groups: list[FieldGroup]
    options: list[OptionGroup]
    about: FieldGroup
    errors: int
    message: str
    summary: str
    key: str
    presets: list[PresetForm]
    data: dict[str, Any]


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network, in words."""

    kind: str
    name: str
    shape: str
    parameters: str


@dataclass(frozen=True)
class PreflightPage(Page):
    """A fragment of the form of a new run; all of it may be empty. `again`: a worker may know more in a while."""

    template: ClassVar[str] = "preflight.html"
    again: bool
    figures: list[str]
    note: str
    problem: str
    caution: str
    layers_title: str
    layers: list[LayerRow]


@dataclass(frozen=True)
class Moment:
    """One event of a run's life, in plain words. `state` is empty where it stayed what it was."""

    at: str
    ago: str
    state: str
    state_title: str
    text: str


@dataclass(frozen=True)
class RunPage(Page):
    template: ClassVar[str] = "run.html"
    section: ClassVar[str] = "runs"
    run: RunRow
    actions: list[str]
    notes: str
    again_url: str | None
    spec: list[Fact]
    resolved: list[Fact]
    moments: list[Moment]
    error: str | None
    error_tail: str
    facts: list[Fact]
    view: View
    data: dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """One parameter of the page's address."""

    name: str
    value: str


@dataclass(frozen=True)
class ComparePage(Page):
    template: ClassVar[str] = "compare.html"
    section: ClassVar[str] = "runs"
    rows: list[RunRow]
    names: list[str]
    missing: list[str]
    picker: list[RunRow]
    experiments: list[Choice]
    specs: SpecTable
    summary: SummaryTable
    csv_url: str
    statistics: StatisticsPanel | None
    sweep: dict[str, Any] | None
    query: list[Pair]
    banner: Banner | None
    view: View
    data: dict[str, Any]


@dataclass(frozen=True)
class WrongPage(Page):
    template: ClassVar[str] = "wrong.html"
    section: ClassVar[str] = "runs"
    rows: list[RunRow]
    names: list[str]
    missing: list[str]
    back_url: str
    panel: Panel


@dataclass(frozen=True)
class WorkerRow:
    name: str
    drain: str  # what was asked of it already: see app.models.DRAINS
    leaving: str  # what that means, or empty
    host: str
    slots: str
    devices: str
    running: list[RunRow]
    seen: str
    since: str
    note: str  # why it takes no run; empty when it does
    datasets: str  # those registered on its host, or empty


@dataclass(frozen=True)
class WaitingRow:
    position: int
    run: RunRow
    waiting: str


@dataclass(frozen=True)
class WorkersPage(Page):
    template: ClassVar[str] = "workers.html"
    section: ClassVar[str] = "workers"
    workers: list[WorkerRow]
    waiting: list[WaitingRow]
    summary: str
    trouble: str  # with the disk of the database; empty when there is room
    data: dict[str, Any]


@dataclass(frozen=True)
class OptionRow:
    title: str
    name: str
    help: str
    values: str
    default: str


@dataclass(frozen=True)
class RecipeRow:
    """What a data set adds to a model's own settings, and how well that learnt; `url` is the form filled in with it."""

    dataset: str
    changes: str
    accuracy: str
    time: str
    url: str


@dataclass(frozen=True)
class ModelPage(Page):
    template: ClassVar[str] = "model.html"
    section: ClassVar[str] = "new"
    name: str
    title: str
    text: str
    paper: str
    parameters: str
    options: list[OptionRow]
    recipe: list[Fact]
    recipes: list[RecipeRow]
    new_url: str
    others: list[Choice]
    rows: list[RunRow]


@dataclass(frozen=True)
class DocsPage(Page):
    template: ClassVar[str] = "docs.html"
    section: ClassVar[str] = "docs"
    openapi_url: str


@dataclass(frozen=True)
class LoginPage(Page):
    template: ClassVar[str] = "login.html"
    next_path: str
    name: str
    error: str
    wanted: bool


@dataclass(frozen=True)
class TokenRow:
    """A token or password; `used_at` is for scripts, `ended` when it was revoked."""

    id: str
    name: str
    kind: str
    prefix: str
    scope: str
    state: str
    state_title: str
    made: str
    used: str
    used_at: str
    expires: str
    ended: str
    is_mine: bool


@dataclass(frozen=True)
class NewSecret:
    """What is shown once; `first`: until then nobody needed a token."""

    name: str
    secret: str
    first: bool


@dataclass(frozen=True)
class TokensPage(Page):
    template: ClassVar[str] = "tokens.html"
    section: ClassVar[str] = "tokens"
    is_open: bool
    made: NewSecret | None
    asked: TokenRow | None
    rows: list[TokenRow]
    revoked: list[TokenRow]
    name: str
    error: str
    scopes: list[Choice]
    lives: list[Choice]


@dataclass(frozen=True)
class ErrorPage(Page):
    template: ClassVar[str] = "error.html"
    status: int
    title: str
    message: str
    advice: str


PAGES: tuple[type[Page], ...] = (
    RunsPage,
    EditPage,
    BulkPage,
    NewPage,
    PreflightPage,
    RunPage,
    ComparePage,
    WrongPage,
    WorkersPage,
    ModelPage,
    DocsPage,
    LoginPage,
    TokensPage,
    ErrorPage,
)
