"""What the parallel coordinates and the scatter plot draw: a column a setting or result, a row a run; JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.datastructures import QueryParams

from app.compare import flatten
from app.models import Run
from app.results import Result, best_of, direction_of, is_share
from app.web.figures import metric_title, shown_metrics
from app.web.i18n import _
from app.web.rows import RunRow, field_title, field_value

MIN_RUNS = 3
LOG_RATIO = 30.0  # from here on a logarithmic axis tells more; with few values, as batch sizes are, earlier
FEW_VALUES, FEW_LOG_RATIO = 7, 8.0
MAX_LABELS = 40  # distinct texts on an axis; what has more is a name, not a setting
MAX_SETTINGS, MAX_AXES = 6, 9
NEVER_AXES = ("seed",)
OWN_COLOURS = "run"  # in the address: each run in its own colour
PARAMETERS = ("axes", "sx", "sy", "tint", "brush")


def sweep_data(
    runs: Sequence[Run],
    rows: Sequence[RunRow],
    names: Sequence[str],
    results: Mapping[str, Result],
    url: Callable[[str], str],
) -> dict[str, Any] | None:
    """None where there are too few runs to see anything.

    `columns`: `values` holds a number a run, or null; of a column with `labels` the number is the label's place.
    `axes` and `scatter` are the keys that are shown first.
    """
    if len(runs) < MIN_RUNS:
        return None
    columns = [*_settings(runs), *_results([results[run.id] for run in runs])]
    if not columns:
        return None
    varied = [c["key"] for c in columns if c["varies"] and not c["result"] and c["key"] not in NEVER_AXES]
    came = [c["key"] for c in columns if c["result"] and c["varies"]]
    axes = [*varied[:MAX_SETTINGS], *came][:MAX_AXES]
    return {
        "runs": [
            {"id": row.id, "name": name, "colour": row.colour, "url": url(row.id)}
            for row, name in zip(rows, names, strict=True)
        ],
        "columns": columns,
        "axes": axes[: max(len(varied[:MAX_SETTINGS]) + 2, 3)],
        "scatter": [(varied or came or [columns[0]["key"]])[0], (came or [columns[-1]["key"]])[0]],
        "colour": came[0] if came and len(runs) > 8 else "",
        "brushes": [],
    }


def apply_address(data: dict[str, Any], query: QueryParams) -> list[str]:
    """Change what is shown first to what the address asks for; a notice for each name that is no column."""
    titles = {column["key"]: column for column in data["columns"]}
    asked = [*query.getlist("axes"), *(query.get(name) or "" for name in ("sx", "sy"))]
    asked += [tint] if (tint := query.get("tint", "")) not in ("", OWN_COLOURS) else []
    axes = [key for key in dict.fromkeys(query.getlist("axes")) if key in titles]
    data["axes"] = axes or data["axes"]
    data["scatter"] = [
        query[name] if query.get(name) in titles else usual
        for name, usual in zip(("sx", "sy"), data["scatter"], strict=True)
    ]
    data["colour"] = "" if tint == OWN_COLOURS else tint if tint in titles else data["colour"]
    data["brushes"] = [brush for text in query.getlist("brush") if (brush := _brush(text, titles))]
    strangers = dict.fromkeys(key for key in asked if key and key not in titles)
    sentence = _("These runs have no setting or result “{name}” to draw.")
    return [sentence.format(name=key[:60]) for key in list(strangers)[:5]]


def _brush(text: str, known: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """`lr,0.001,0.1`: the part of an axis that is kept; what cannot be read keeps all."""
    try:
        key, low_text, high_text = text.rsplit(",", 2)
        low, high = float(low_text), float(high_text)
    except ValueError:
        return None
    return (key, low, high) if key in known and math.isfinite(low) and math.isfinite(high) else None


def _settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    specs = [flatten(run.spec) for run in runs]
    names = list(dict.fromkeys(name for spec in specs for name in spec))
    columns = [_setting_column(name, [spec.get(name) for spec in specs]) for name in names]
    return sorted((c for c in columns if c is not None), key=lambda column: not column["varies"])


def _setting_column(name: str, values: Sequence[Any]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if all(_is_number(value) for value in known):
        return _column(name, field_title(name), [None if v is None else float(v) for v in values])
    texts = [None if value is None else _label(name, value) for value in values]
    labels = sorted({text for text in texts if text is not None})
    if len(labels) > MAX_LABELS:
        return None
    places: list[float | None] = [None if text is None else float(labels.index(text)) for text in texts]
    return _column(name, field_title(name), places) | {"labels": labels}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _label(name: str, value: Any) -> str:
    return json.dumps(value)[:40] if isinstance(value, (list, dict)) else field_value(name, value)[:40]


def _results(results: Sequence[Result]) -> list[dict[str, Any]]:
    metrics, _count = shown_metrics(results, everything=True)
    columns = [_metric_column(metric, results) for metric in metrics if direction_of(metric)]
    for key, title, values in (
        ("parameters", _("Parameters"), [_float(r.parameters) for r in results]),
        ("epoch", _("Seconds an epoch"), [r.epoch_s for r in results]),
        ("total", _("Seconds in all"), [r.total_s for r in results]),
    ):
        columns.append(
            _column(f"result:{key}", title, values) | {"better": "" if key == "parameters" else "lower"}
        )
    return [column | {"result": True} for column in columns if any(v is not None for v in column["values"])]


def _metric_column(metric: str, results: Sequence[Result]) -> dict[str, Any]:
    summaries = [result.metrics.get(metric) for result in results]
    best = [best_of(summary) if summary else None for summary in summaries]
    title = _("{metric}, best").format(metric=metric_title(metric))
    column = _column(f"result:{metric}", title, [point.value if point else None for point in best])
    share = is_share(metric, [summary for summary in summaries if summary is not None])
    return column | {"share": share, "better": direction_of(metric), "log": column["log"] and not share}


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


def _column(key: str, title: str, values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return {
        "key": key,
        "title": title,
        "values": [value if value is not None and math.isfinite(value) else None for value in values],
        "varies": len(set(known)) > 1,
        "log": low > 0 and high / low >= (FEW_LOG_RATIO if len(set(known)) <= FEW_VALUES else LOG_RATIO),
        "share": False,
        "better": "",
        "result": False,
    }
