"""The button that runs the odd ones of a comparison again, with the settings of the others."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app import listing, submit
from app.compare import facts_of, judge
from app.compare.matching import Match, Rerun, plan_match
from app.errors import Conflict, Invalid
from app.models import Run
from app.runs import NewRun
from app.web.compare import MAX_RUNS
from app.web.deps import AppSettings, Db, Posted
from app.web.i18n import _
from app.web.render import local_url
from app.web.rows import distinct_names, make_rows
from app.web.verdict import obstacle_text

router = APIRouter()

TAG = "matched"


@router.post("/compare/match", name="compare_match")
def match_runs(request: Request, db: Db, settings: AppSettings, posted: Posted) -> Response:
    """Start the runs that the verdict's button promised; then the comparison with them in place of the odd ones.

    Raises: Conflict when the comparison is not confounded any more; Invalid where nothing can be started for it.
    """
    asked = list(dict.fromkeys(posted.get("runs", "").split(",")))[:MAX_RUNS]
    subject = [name for name in posted.get("group", "").split(",") if name]
    baseline = posted.get("baseline") or None
    with db.read() as s:
        found = listing.get_runs(s, asked)
        names = {run.id: name for run, name in zip(found, distinct_names(make_rows(s, found)), strict=True)}
    facts = [facts_of(run) for run in found]
    plan = plan_match(facts, judge(facts, subject), baseline)
    if not plan.reruns:
        text = obstacle_text(plan, names)
        raise (
            Invalid(text)
            if text
            else Conflict(_("These runs are not confounded: there is nothing to match."))
        )
    by_id = {run.id: run for run in found}
    wanted = [_new_run(by_id, names, rerun, _key(posted, i)) for i, rerun in enumerate(plan.reruns)]
    rows, _is_new = submit.create(db, settings, wanted)
    query = _with_new(request, posted, _replaced(found, plan, [row["id"] for row in rows]))
    return RedirectResponse(f"{local_url(request, 'page_compare')}?{query}", 303)


def _new_run(by_id: dict[str, Run], names: dict[str, str], rerun: Rerun, key: str | None) -> NewRun:
    odd = by_id[rerun.odd]
    notes = _("Run again with the settings of {other}, to be compared with it. Before: {run}.").format(
        other=names[rerun.reference], run=rerun.odd
    )
    seed = rerun.spec.seed
    same_seed = odd.spec.get("seed") == seed
    label = _("{name} · matched") if same_seed else _("{name} · matched · seed {seed}")
    return NewRun(
        rerun.spec,
        label.format(name=odd.name[:170], seed=seed),
        odd.experiment,
        list(dict.fromkeys([*odd.tags, TAG]))[:32],
        notes,
        idempotency_key=key,
    )


def _key(posted: dict[str, str], i: int) -> str | None:
    """Pressing the button twice starts the runs once."""
    key = posted.get("key", "")
    return f"match:{key}:{i}" if len(key) == 32 and key.isalnum() else None


def _replaced(found: Sequence[Run], plan: Match, new: Sequence[str]) -> list[str]:
    """The runs of the page with the new ones where the first odd one stood."""
    ids = [run.id for run in found]
    first = min(ids.index(run) for run in plan.odd)
    kept = [run for run in ids if run not in plan.odd]
    at = sum(1 for run in ids[:first] if run not in plan.odd)
    return [*kept[:at], *new, *kept[at:]]


def _with_new(request: Request, posted: dict[str, str], ids: Sequence[str]) -> str:
    query = [("run", run) for run in ids]
    query += [("group", name) for name in posted.get("group", "").split(",") if name]
    return urlencode(query + ([("baseline", posted["baseline"])] if posted.get("baseline") in ids else []))
