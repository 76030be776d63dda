"""The state of a page's charts: read from its address, and what was wrong there, in plain sentences.

The address is the state: every control writes it (static/js/view.js), and opening it elsewhere shows the same. A
hand-edited address never fails: what cannot be understood falls back to the default, and a notice says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from starlette.datastructures import QueryParams

from app.axes import Axis
from app.compare import flatten
from app.models import Run
from app.smooth import MAX_SMOOTH
from app.web.i18n import _

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
    """What the page has: ids of its runs, names of their metrics, and of spec fields to group by."""

    runs: Collection[str] = ()
    metrics: Collection[str] = ()
    fields: Collection[str] = ()

    @classmethod
    def of(cls, runs: Sequence[Run], metrics: Iterable[str]) -> Known:
        fields = dict.fromkeys(name for run in runs for name in flatten(run.spec))
        return cls([run.id for run in runs], frozenset(metrics), list(fields))


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

    def as_data(self) -> dict[str, Any]:
        """For the scripts, as JSON."""
        return {name: value for name, value in asdict(self).items() if name != "notices"}


def read_view(query: QueryParams, known: Known, also: Collection[str] = ()) -> View:
    """The view that an address asks for, as far as `known` allows; `also` names the page's other parameters."""
    reader = _Reader(query, known)
    return View(
        x=reader.choice("x", get_args(Axis), "step"),
        y=reader.metrics("y", fall_back=True),
        smooth=reader.smooth(),
        group=reader.fields(),
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
    )


def chart_data(view: View, runs: list[dict[str, Any]], *, single: bool = False) -> dict[str, Any]:
    """What the scripts draw from: `runs` as app.web.rows.chart_facts has them; `single` on a run's own page."""
    return {"runs": runs, "view": view.as_data(), "single": single}


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
        for field in asked:
            if field not in self.known.fields:
                self._say(_("None of these runs has a setting “{field}” to group by: ignored."), field=field)
        return tuple(field for field in asked if field in self.known.fields)

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
