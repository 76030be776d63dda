"""What networks are, as workers tell it: shapes, parameters and costs, which torch knows and the web process does not.

The table is queue and memory in one: a row without an answer is a question, and workers look for one a few times a
second (worker/preflight.py). What is asked is the model with its options, and the size of the images: batch size,
epochs and all else are arithmetic on the answer (app/estimate.py), so that few questions are ever asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, update
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from app.db import now
from app.models import Anatomy
from ml.catalog import DATASETS
from ml.spec import RunSpec

KEPT = 500  # answers; the oldest are forgotten
RETAKE_S = 30.0  # a question whose worker has not answered by then is another's

Question = dict[str, Any]


def question_of(spec: RunSpec) -> Question:
    """All of a spec that its network's anatomy depends on."""
    data = DATASETS[spec.dataset]
    return {
        "model": spec.model,
        "options": dict(spec.model_options),
        "shape": list(data.shape),
        "classes": data.classes,
    }


def key_of(question: Question) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def read_answer(s: Session, question: Question) -> dict[str, Any] | None:
    """What a worker said; None when none has said anything yet."""
    row = s.get(Anatomy, key_of(question))
    return None if row is None else row.answer


def ask(s: Session, question: Question) -> None:
    """Ask it, unless it was asked before; forget what was asked long ago."""
    key = key_of(question)
    if s.get(Anatomy, key) is not None:
        return
    s.merge(Anatomy(key=key, question=question, asked_at=now(s)))
    newest = select(Anatomy.key).order_by(col(Anatomy.asked_at).desc()).limit(KEPT)
    s.flush()
    s.execute(delete(Anatomy).where(col(Anatomy.key).not_in(newest)))


def is_anything_asked(s: Session) -> bool:
    return s.exec(_waiting(s).limit(1)).first() is not None


def take_question(s: Session) -> Question | None:
    """The oldest question that nobody answers at the moment; ours now."""
    oldest = _waiting(s).order_by(col(Anatomy.asked_at)).limit(1)
    row = s.exec(oldest.with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    row.taken_at = now(s)
    s.add(row)
    return row.question


def _waiting(s: Session) -> SelectOfScalar[Anatomy]:
    free = or_(col(Anatomy.taken_at).is_(None), col(Anatomy.taken_at) < now(s) - RETAKE_S)
    return select(Anatomy).where(col(Anatomy.answer).is_(None), free)


def answer(s: Session, question: Question, found: Mapping[str, Any]) -> None:
    s.execute(update(Anatomy).where(col(Anatomy.key) == key_of(question)).values(answer=dict(found)))


def forget(s: Session, question: Question) -> None:
    """As if it had not been asked: nobody here can answer it."""
    s.execute(delete(Anatomy).where(col(Anatomy.key) == key_of(question)))


def forget_answers(s: Session) -> None:
    """What another version of the models said; a worker does it as it starts."""
    s.execute(delete(Anatomy).where(col(Anatomy.answer).is_not(None)))
