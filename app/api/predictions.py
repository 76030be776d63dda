"""What runs answered on their validation images: confusion matrix of one, images on which several disagree."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlmodel import Session, col, select

from app import mistakes, runs
from app.api.bodies import MAX_STEP
from app.api.deps import AppSettings, Db
from app.errors import Invalid, NotFound
from app.evaluations import (
    MISSING,
    Evaluation,
    class_names,
    load_evaluations,
    load_step,
    read_at,
    same_set,
)
from app.images import has_images
from app.mistakes import Ballot, Ints, Show
from app.models import Run

router = APIRouter(prefix="/api/v1", tags=["artifacts"])

Json = dict[str, Any]
MAX_RUNS = 100


@router.get("/runs/{run_id}/predictions", summary="Confusion matrix of an evaluation")
def get_predictions(
    run_id: str,
    db: Db,
    settings: AppSettings,
    step: Annotated[int | None, Query(ge=0, le=MAX_STEP)] = None,
    at: Annotated[str, Query(max_length=20, description="`last`, `best` or an epoch")] = "last",
) -> Json:
    """`matrix[t][p]` counts the images of class t that were taken for p; `evaluations` lists what is stored."""
    with db.read() as s:
        run = runs.get_run(s, run_id)
        found = load_step(s, run, step) if step is not None else _load(s, [run], at)[run_id]
    if found is None:
        raise NotFound(
            f"no predictions of run {run_id} are stored for step {step}; `evaluations` lists them", "step"
        )
    if not isinstance(found, Evaluation):
        raise NotFound(f"run {run_id}: {MISSING[found]}")
    labels, answers = found.labels, found.answers
    matrix = mistakes.confusion(labels.label, answers.predicted, labels.classes)
    return {
        "run": run_id,
        "step": found.step,
        "epoch": found.epoch,
        "evaluations": [{"epoch": epoch, "step": step} for epoch, step in found.kept],
        "n": len(labels.label),
        "accuracy": found.accuracy,
        "classes": class_names(run, labels.classes),
        "matrix": matrix.tolist(),
        "per_class": [
            {
                "n": int(row.sum()),
                "right": int(row[k]),
                "accuracy": int(row[k]) / int(row.sum()) if row.sum() else None,
            }
            for k, row in enumerate(matrix)
        ],
        "val_digest": labels.val_digest,
        "images": has_images(settings.images_dir, labels.val_digest),
    }


@router.get("/disagreements", summary="Images that several runs answered differently")
def get_disagreements(
    db: Db,
    settings: AppSettings,
    run: Annotated[list[str], Query(min_length=1, max_length=MAX_RUNS)],
    at: Annotated[str, Query(max_length=20, description="`last`, `best` or an epoch")] = "last",
    show: Show = "disagree",
    a: Annotated[str | None, Query(description="The run A of `show`; the first by default")] = None,
    b: Annotated[str | None, Query(description="The run B of `show`; the second by default")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Json:
    """The images that all these runs were validated on, those with most disagreement first, then by confidence.

    `show`: `disagree`, `a_only` (A wrong, B right), `b_only`, `all_wrong`, `any_wrong` or `all`. `left_out` names runs
    that cannot be compared, and why. `confidence` is a probability, stored in 8 bits.
    """
    ids = list(dict.fromkeys(run))
    with db.read() as s:
        rows = {row.id: row for row in s.exec(select(Run).where(col(Run.id).in_(ids)))}
        for run_id in ids:
            if run_id not in rows:
                raise NotFound(f"there is no run {run_id!r}", "run")
        found = same_set(_load(s, [rows[run_id] for run_id in ids], at))
    good = {run_id: one for run_id, one in found.items() if isinstance(one, Evaluation)}
    answer: Json = {
        "left_out": [
            {"run": run_id, "reason": one, "message": MISSING[one]}
            for run_id, one in found.items()
            if not isinstance(one, Evaluation)
        ],
        "runs": [
            {"run": run_id, "step": one.step, "epoch": one.epoch, "accuracy": one.accuracy}
            for run_id, one in good.items()
        ],
    }
    if not good:
        return answer | {"n": 0, "total": 0, "images": [], "next_cursor": None}
    ballot = mistakes.hold_ballot([(one.labels, one.answers) for one in good.values()])
    members = list(good)
    chosen = mistakes.choose(ballot, show, _row(members, a, 0, "a"), _row(members, b, 1, "b"))
    places = mistakes.order(ballot, chosen)
    mark = _mark(at, show, [f"{run_id}:{one.step}" for run_id, one in good.items()])
    first = _read_cursor(cursor, mark)
    shown = places[first : first + limit]
    more = first + limit < len(places)
    labels = good[members[0]].labels
    names = class_names(rows[members[0]], labels.classes)
    images = has_images(settings.images_dir, labels.val_digest)
    return answer | {
        "n": len(ballot.label),
        "total": len(places),
        "images": _images(ballot, shown, members, names, labels.val_digest if images else None),
        "next_cursor": _write_cursor(first + limit, mark) if more else None,
    }


def _load(s: Session, rows: Sequence[Run], at: str) -> Any:
    wanted = read_at(at)
    if wanted is None:
        raise Invalid(f"there is no evaluation {at!r}; write last, best or the number of an epoch", "at")
    return load_evaluations(s, rows, wanted)


def _row(members: list[str], run_id: str | None, usual: int, field: str) -> int:
    if run_id is None:
        return min(usual, len(members) - 1)
    if run_id not in members:
        raise Invalid(f"{run_id!r} is none of the runs that can be compared here", field)
    return members.index(run_id)


def _images(
    ballot: Ballot, places: Ints, members: list[str], names: list[str], val_digest: str | None
) -> list[Json]:
    apart, wrong = mistakes.disagreement(ballot, places), ballot.wrong
    return [
        {
            "index": int(ballot.index[place]),
            "truth": names[ballot.label[place]],
            "disagreement": round(float(apart[i]), 4),
            "url": f"/api/v1/validation/{val_digest}/{ballot.index[place]}.png" if val_digest else None,
            "answers": [
                {
                    "run": run_id,
                    "answer": names[ballot.predicted[row, place]],
                    "confidence": round(float(ballot.confidence[row, place]), 4),
                    "right": not wrong[row, place],
                }
                for row, run_id in enumerate(members)
            ],
        }
        for i, place in enumerate(places.tolist())
    ]


# -- pages: the order is that of these evaluations, so a cursor names them -------------------------------------------


def _mark(*facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _write_cursor(first: int, mark: str) -> str:
    return base64.urlsafe_b64encode(f"{first}:{mark}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str | None, mark: str) -> int:
    if cursor is None:
        return 0
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
        first, _, made_for = text.partition(":")
        if made_for == mark:
            return int(first)
    except ValueError:
        pass
    raise Invalid(
        "the cursor is not one of this list (a run may have been evaluated anew); leave it out to start again",
        "cursor",
    )
