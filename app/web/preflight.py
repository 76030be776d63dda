"""What the form of a new run says of it while one types: a fragment that static/js/preflight.js puts into the page."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app import preflight
from app.errors import TrainyardError
from app.estimate import as_size
from app.preflight import Preflight
from app.web import forms
from app.web.contexts import LayerRow, PreflightPage
from app.web.deps import Db, Posted
from app.web.formats import duration
from app.web.i18n import _, ngettext, sentence
from app.web.render import render

router = APIRouter()

WAIT_S = 4.0  # the script asks again where that was too short


def nothing(*, again: bool) -> PreflightPage:
    return PreflightPage(again, [], "", "", "", "", [])


@router.post("/new/preflight", name="preflight")
def preflight_fragment(request: Request, db: Db, posted: Posted) -> Response:
    """Empty for a spec that does not hold, whose fields say why, and while no worker can look at it."""
    spec = forms.read_spec(forms.from_post(posted))
    if spec is None:
        return render(request, nothing(again=False))
    try:
        found = preflight.check(db, spec, WAIT_S)
    except TrainyardError:
        return render(request, nothing(again=True))
    return render(request, _page(found))


def _page(found: Preflight) -> PreflightPage:
    layers = found.anatomy.get("layers", [])
    return PreflightPage(
        again=False,
        figures=list(_figures(found)),
        note=_note(found),
        problem=sentence(found.problem),
        caution=sentence(found.caution),
        layers_title=ngettext("{n} layer", "{n} layers", len(layers)).format(n=len(layers)),
        layers=[_row(layer) for layer in layers],
    )


def _figures(found: Preflight) -> list[str]:
    if not found.anatomy:
        return []
    whole, learning = found.anatomy["parameters"], found.anatomy["trainable"]
    if learning < whole:
        figures = [_("{n} of {all} parameters learn").format(n=short(learning), all=short(whole))]
    else:
        figures = [_("{n} parameters").format(n=short(whole))]
    if found.epoch_s is not None and not found.problem:
        time = epoch_time(found.epoch_s)
        figures.append((_("{time} per epoch") if found.runs else _("~{time} per epoch")).format(time=time))
    if found.memory is not None:
        figures.append(_("~{size} of memory").format(size=as_size(found.memory.total)))
    return figures


def _note(found: Preflight) -> str:
    """Where the time comes from."""
    if found.epoch_s is None:
        return ""
    if found.runs:
        return ngettext(
            "As long as {n} finished run like this took here.",
            "As long as {n} finished runs like this took here.",
            found.runs,
        ).format(n=found.runs)
    return _("The time is estimated from this worker's speed; it may be off by a factor of two.")


def _row(layer: dict[str, Any]) -> LayerRow:
    shape = " × ".join(f"{size:,}" for size in layer["shape"])
    return LayerRow(
        layer["kind"], layer["name"], shape, f"{layer['parameters']:,}" if layer["parameters"] else ""
    )


def short(count: int) -> str:
    """`44,426` and `1.56 M`."""
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:.3g} M"


def epoch_time(seconds: float) -> str:
    """With a decimal where a second is much."""
    return _("{n} s").format(n=f"{seconds:.2g}") if seconds < 10 else duration(seconds)
