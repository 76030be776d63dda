"""The state of a page's charts: read from its address, and what was wrong there, in plain sentences.

The address is the state: every control writes it (static/js/view.js), and opening it elsewhere shows the same. A
hand-edited address never fails: what cannot be understood falls back to the default, and a notice says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from starlette.datastructures import QueryParams

from app.axes import Axis
from app.compare import flatten, same
from app.models import Run
from app.smooth import MAX_SMOOTH
from app.web import formats
from app.web.i18n import _
from app.web.rows import field_title, field_value

Band: TypeAlias = Literal["std", "se", "ci95", "minmax"]

MAX_NAMES = 200  # of one kind: what follows is not looked at
SHOWN_LENGTH = 60  # of a word from the address, in a notice
_SHOWN = (
    "x",
    "y",
    "smooth",
    "group",
    "band",
    "members",
    "log",
    "logx",
    "hide",
    "only",
    "full",
    "zoom",
    "ylim",
)
NAMES = frozenset({"run", *_SHOWN, "baseline", "find", "closed"})


@dataclass(frozen=True)
class Known:
    """What the page has: ids of its runs, names of their metrics, and spec fields to group by with a value a run."""

    runs: Collection[str] = ()
    metrics: Collection[str] = ()
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, runs: Sequence[Run], metrics: Iterable[str]) -> Known:
        """The fields in which the runs differ come first: those make more than one group."""
        specs = [flatten(run.spec) for run in runs]
        names = dict.fromkeys(name for spec in specs for name in spec)
        fields = {name: [spec.get(name) for spec in specs] for name in names}
        in_order = sorted(
            fields, key=lambda name: all(same(value, fields[name][0]) for value in fields[name])
        )
        return cls([run.id for run in runs], frozenset(metrics), {name: fields[name] for name in in_order})


@dataclass(frozen=True)
class View:
    """What the charts show. Times in `zoom` are Unix seconds where `x` is `time`, as everywhere."""

    x: Axis = "step"
    y: tuple[str, ...] = ()  # the metrics to show; none: all
    smooth: float = 0.0
    group: tuple[str, ...] = ()  # spec fields; a line for each combination of their values
    band: Band = "std"
    members: bool = False  # the runs of a group, faint behind its mean
    log: tuple[str, ...] = ()  # metrics with a logarithmic y axis
    logx: bool = False
    hide: tuple[str, ...] = ()  # runs that are not drawn
    only: tuple[str, ...] = ()  # where given, the only runs that are drawn
    full: str | None = None  # the metric that fills the screen
    zoom: tuple[float, float] | None = None  # the window of x
    ylim: tuple[str, ...] = ()  # metrics with a window of y: "metric,low,high"
    baseline: str | None = None  # the run that others are compared with
    find: str = ""  # a part of the names of metrics to show
    closed: tuple[str, ...] = ()  # groups of charts that are folded away
    notices: tuple[str, ...] = ()
    known: Known = field(default_factory=Known, compare=False, repr=False)

    def as_data(self) -> dict[str, Any]:
        """For the scripts, as JSON."""
        return {name: value for name, value in asdict(self).items() if name not in ("notices", "known")}


def read_view(query: QueryParams, known: Known, also: Collection[str] = ()) -> View:
    """The view that an address asks for, as far as `known` allows; `also` names the page's other parameters."""
    reader = _Reader(query, known)
    group = reader.fields()
    return View(
        x=reader.axis(grouped=bool(group)),
        y=reader.metrics("y", fall_back=True),
        smooth=reader.smooth(),
        group=group,
        band=reader.choice("band", get_args(Band), "std"),
        members=reader.flag("members"),
        log=reader.metrics("log"),
        logx=reader.flag("logx"),
        hide=reader.hidden(),
        only=reader.runs("only"),
        full=next(iter(reader.metrics("full")), None),
        zoom=reader.zoom(),
        ylim=reader.heights(),
        baseline=next(iter(reader.runs("baseline")), None),
        find=query.get("find", "")[:SHOWN_LENGTH],
        closed=reader.texts("closed"),
        notices=(*reader.notices, *_unknown_names(query, also)),
        known=known,
    )


def chart_data(view: View, runs: list[dict[str, Any]], *, single: bool = False) -> dict[str, Any]:
    """What the scripts draw from: `runs` as app.web.rows.chart_facts has them; `single` on a run's own page."""
    return {"runs": runs, "view": view.as_data(), "single": single, "fields": _fields(view.known)}


def _fields(known: Known) -> list[dict[str, Any]]:
    """What runs can be grouped by: title, a value a run as the API has it, and how people read it."""
    return [
        {"name": name, "title": field_title(name), "values": values, "texts": _texts(name, values)}
        for name, values in known.fields.items()
        if not any(isinstance(value, list) for value in values)
    ]


def _texts(name: str, values: Sequence[Any]) -> list[str]:
    return [formats.DASH if value is None else field_value(name, value) for value in values]


def _unknown_names(query: QueryParams, also: Collection[str]) -> Iterable[str]:
    strangers = [name for name in dict.fromkeys(query) if name not in NAMES and name not in also]
    for name in strangers[:5]:
        yield _("The address has “{name}”, which this page does not know: ignored.").format(name=_cut(name))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"


class _Reader:
    """Reads one address; `notices` collects what was wrong in it."""

    def __init__(self, query: QueryParams, known: Known) -> None:
        self.query, self.known = query, known
        self.notices: list[str] = []

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for text in self.query.getlist(name) if text))[:MAX_NAMES]

    def choice(self, name: str, allowed: tuple[Any, ...], default: Any) -> Any:
        text = self.query.get(name) or default
        if text in allowed:
            return text
        sentence = _(
            "“{value}” is not a choice for “{name}” in the address; there are {choices}. Shown: {default}."
        )
        self._say(sentence, value=text, name=name, choices=", ".join(allowed), default=default)
        return default

    def axis(self, grouped: bool) -> Axis:
        axis: Axis = self.choice("x", get_args(Axis), "step")
        if grouped and axis == "time":
            self._say(
                _("Clock times of several runs have no mean; grouped runs are drawn over the elapsed time.")
            )
            return "elapsed"
        return axis

    def flag(self, name: str) -> bool:
        text = self.query.get(name, "")
        if text not in ("", "0", "1"):
            self._say(
                _("“{name}” in the address is 1 or nothing, not “{value}”: ignored."), name=name, value=text
            )
        return text == "1"

    def smooth(self) -> float:
        text = self.query.get("smooth") or "0"
        number = _number(text)
        if number is None or not 0 <= number <= MAX_SMOOTH:
            sentence = _("Smoothing is a number from 0 to {most}, not “{value}”: switched off.")
            self._say(sentence, most=MAX_SMOOTH, value=text)
            return 0.0
        return number

    def zoom(self) -> tuple[float, float] | None:
        text = self.query.get("zoom")
        if not text:
            return None
        if ends := _window(text):
            return ends
        sentence = _("“zoom” in the address is two rising numbers, such as 100,500, not “{value}”: ignored.")
        self._say(sentence, value=text)
        return None

    def heights(self) -> tuple[str, ...]:
        kept = []
        for text in self.texts("ylim"):
            metric, *ends = text.rsplit(",", 2)  # a metric's name may have commas
            if metric and _window(",".join(ends)):
                kept.append(text)
                continue
            sentence = _("“ylim” in the address is a metric and two rising numbers, not “{value}”: ignored.")
            self._say(sentence, value=text)
        return tuple(kept)

    def metrics(self, name: str, fall_back: bool = False) -> tuple[str, ...]:
        """Names of metrics. With `fall_back`, none where all are unknown: nothing could be shown."""
        asked = self.texts(name)
        if not self.known.runs:
            return asked
        unknown = [metric for metric in asked if metric not in self.known.metrics]
        for metric in unknown:
            self._say(_("None of these runs has measured “{metric}” (yet)."), metric=metric)
        return () if fall_back and len(unknown) == len(asked) else asked

    def fields(self) -> tuple[str, ...]:
        asked = self.texts("group")
        if not self.known.runs:
            return asked
        for name in asked:
            if name not in self.known.fields:
                self._say(_("None of these runs has a setting “{field}” to group by: ignored."), field=name)
        return tuple(name for name in asked if name in self.known.fields)

    def hidden(self) -> tuple[str, ...]:
        if self.query.get("hide") and self.query.get("only"):
            self._say(_("The address has both “hide” and “only”; “only” counts."))
            return ()
        return self.runs("hide")

    def runs(self, name: str) -> tuple[str, ...]:
        asked = self.texts(name)
        for run_id in asked:
            if self.known.runs and run_id not in self.known.runs:
                sentence = _(
                    "“{name}” in the address names “{run}”, which is not among the runs of this page."
                )
                self._say(sentence, name=name, run=run_id)
        return tuple(run_id for run_id in asked if run_id in self.known.runs)

    def _say(self, sentence: str, **words: object) -> None:
        self.notices.append(sentence.format(**{name: _cut(str(word)) for name, word in words.items()}))


def _window(text: str) -> tuple[float, float] | None:
    """Two rising numbers, as in `100,500`."""
    ends = [_number(part) for part in text.split(",")]
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None and ends[0] < ends[1]:
        return ends[0], ends[1]
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
