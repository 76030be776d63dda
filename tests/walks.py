"""Steps that a run may be asked to take, each against a plain model of what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import text, update
from sqlmodel import Session, col

from app import runs
from app.errors import Conflict, Fenced
from app.models import CANCELED, ENDED, FAILED, FINISHED, PAUSED, QUEUED, RUNNING, Run
from app.runs import Flags, NewRun
from ml.spec import RunSpec

T = TypeVar("T")
MAX_FAILURES = 2
POINTER = {"file": "checkpoint-1-1.pt", "sha256": "0", "step": 7, "epoch": 1, "previous": None}

# DESIGN, "Run states", with what a running run may note.
LEGAL: dict[str | None, set[str]] = {
    None: {QUEUED, RUNNING},  # running at once: an external run
    QUEUED: {RUNNING, CANCELED},
    RUNNING: {RUNNING, FINISHED, FAILED, CANCELED, PAUSED, QUEUED},
    PAUSED: {QUEUED, CANCELED},
    FAILED: {QUEUED},
    CANCELED: {QUEUED},
    FINISHED: set(),
}


@dataclass
class Model:
    """What a run must look like; `moves` is how many events there must be."""

    external: bool
    state: str
    attempt: int = 0
    failures: int = 0
    seq: int = 0
    kept: int = 0
    cancel: bool = False
    pause: bool = False
    moves: int = 1

    def move(self, state: str) -> str:
        self.state, self.cancel, self.pause = state, False, False
        self.moves += 1
        return state

    def asked_for(self, otherwise: str) -> str:
        return CANCELED if self.cancel else PAUSED if self.pause else otherwise

    @property
    def is_training(self) -> bool:
        return self.state == RUNNING and not self.external


class Does(Protocol):
    """Runs a change in a transaction of its own; the error's class when it was refused."""

    def __call__(self, change: Callable[[Session], T], /) -> T | type[Conflict]: ...


@dataclass
class Step:
    """One thing that is asked of one run; each method asserts the answer and brings the model up to date."""

    does: Does
    run_id: str
    model: Model

    def claim(self) -> None:
        def claim(s: Session) -> Run | None:
            s.execute(update(Run).values(not_before=0))
            return runs.claim_run(s, self.run_id, "w", 20)

        found = self.does(claim)
        assert (found is not None) == (self.model.state == QUEUED)
        if self.model.state == QUEUED:
            assert isinstance(found, Run)
            self.model.move(RUNNING)
            self.model.attempt += 1
            assert (found.attempt, found.step) == (self.model.attempt, self.model.kept)

    def report(self, late: int = 0, checkpoint: bool = False) -> None:
        model = self.model
        if model.external:
            return  # a worker never gets one
        pointer = POINTER if checkpoint else None
        found = self.does(
            lambda s: runs.report(
                s, self.run_id, model.attempt - late, model.seq + 1, {}, lease_s=20, checkpoint=pointer
            )
        )
        if late or not model.is_training:
            assert found is Fenced
            return
        assert found == Flags(model.cancel, model.pause)
        model.seq += 1
        if checkpoint:
            model.failures, model.kept = 0, POINTER["step"]  # type: ignore[assignment]

    def rewind(self, late: int = 0) -> None:
        model = self.model
        if model.external:
            return
        found = self.does(lambda s: runs.rewind(s, self.run_id, model.attempt - late, None, "w", "damaged"))
        if late or not model.is_training:
            assert found is Fenced
        else:
            model.kept = 0
            model.moves += 1

    def end(self, state: str, late: int = 0) -> None:
        model = self.model
        if model.external:
            return
        found = self.does(lambda s: runs.end_run(s, self.run_id, model.attempt - late, state, "w", "end"))
        if late or not model.is_training:
            assert found is Fenced
        else:
            assert found is None
            model.move(model.asked_for(state) if state in (PAUSED, CANCELED) else state)

    def release(self, late: int = 0) -> None:
        model = self.model
        if model.external:
            return
        found = self.does(lambda s: runs.release_run(s, self.run_id, model.attempt - late, "w", "release"))
        assert found == (model.is_training and not late)
        if found is True:
            model.move(model.asked_for(QUEUED))

    def die(self, late: int = 0) -> None:
        if self.model.external:
            return

        def give_back(s: Session) -> str | None:
            run = runs.get_run(s, self.run_id)
            s.expunge(run)
            run.attempt -= late
            return runs.give_back(s, run, "w", "died", max_failures=MAX_FAILURES)

        assert self.does(give_back) == (None if late else self.expect_death())

    def expect_death(self) -> str | None:
        """The state that the model gets when its trainer is lost."""
        model = self.model
        if not model.is_training:
            return None
        state = model.asked_for(FAILED if model.failures + 1 >= MAX_FAILURES else QUEUED)
        if state in (QUEUED, FAILED):
            model.failures += 1
        return model.move(state)

    def expire(self) -> None:
        def reap(s: Session) -> dict[str, str]:
            let_expire(s, self.run_id)
            return dict(runs.reap_expired(s, max_failures=MAX_FAILURES))

        state = None if self.model.external else self.expect_death()
        assert self.does(reap) == ({self.run_id: state} if state else {})

    def cancel(self) -> None:
        model = self.model
        found = self.does(lambda s: runs.request_cancel(s, self.run_id))
        if model.state in ENDED:
            assert found is Conflict
        elif model.is_training:
            model.moves += not model.cancel
            model.cancel = True
        else:
            model.move(CANCELED)

    def pause(self) -> None:
        model = self.model
        found = self.does(lambda s: runs.request_pause(s, self.run_id))
        if model.is_training:
            model.moves += not model.pause
            model.pause = True
        else:
            assert found is Conflict

    def resume(self) -> None:
        model = self.model
        found = self.does(lambda s: runs.resume_run(s, self.run_id))
        if model.state in (PAUSED, FAILED, CANCELED) and not model.external:
            model.move(QUEUED)
            model.failures = 0
        else:
            assert found is Conflict

    def finish(self, state: str) -> None:
        """As an outside script does."""
        model = self.model
        found = self.does(lambda s: runs.finish_external(s, self.run_id, state, None))
        if model.external and model.state == RUNNING:
            model.move(state)
        else:
            assert found is Conflict


STEPS: dict[str, Callable[[Step], None]] = {
    "claim": Step.claim,
    "report": Step.report,
    "report late": lambda step: step.report(late=1),
    "checkpoint": lambda step: step.report(checkpoint=True),
    "rewind": Step.rewind,
    "rewind late": lambda step: step.rewind(late=1),
    "finish": lambda step: step.end(FINISHED),
    "finish late": lambda step: step.end(FINISHED, late=1),
    "fail": lambda step: step.end(FAILED),
    "end canceled": lambda step: step.end(CANCELED),
    "end paused": lambda step: step.end(PAUSED),
    "release": Step.release,
    "release late": lambda step: step.release(late=1),
    "die": Step.die,
    "die late": lambda step: step.die(late=1),
    "expire": Step.expire,
    "cancel": Step.cancel,
    "pause": Step.pause,
    "resume": Step.resume,
    "script finishes": lambda step: step.finish(FINISHED),
    "script fails": lambda step: step.finish(FAILED),
}


def create(s: Session, external: bool) -> tuple[str, Model]:
    run, _ = runs.create_run(s, NewRun(None if external else RunSpec()), max_queued=1000)
    return run.id, Model(external, RUNNING if external else QUEUED)


def let_expire(s: Session, run_id: str) -> None:
    lapse = update(Run).where(col(Run.id) == run_id, col(Run.lease_until).is_not(None))
    s.execute(lapse.values(lease_until=1.0))


_ROW = text("""
SELECT kind = 'external', state, attempt, failures, seq, cancel_requested, pause_requested, lease_until IS NOT NULL,
  ended_at IS NOT NULL, error IS NOT NULL FROM run WHERE id = :id
""")
_EVENTS = text("SELECT from_state, to_state, actor, reason FROM run_event WHERE run_id = :id ORDER BY id")


def check(s: Session, run_id: str, model: Model) -> None:
    """The row is as the model says, and its events are a legal chain to where it is, each with who and why."""
    row = s.connection().execute(_ROW, {"id": run_id}).one()
    kept = (model.external, model.state, model.attempt, model.failures, model.seq, model.cancel, model.pause)
    held = (model.is_training, model.state in ENDED)
    assert tuple(row)[:9] == (*kept, *held)
    assert row[9] == (model.state == FAILED and not model.external), "only what has failed has an error"
    events = s.connection().execute(_EVENTS, {"id": run_id}).all()
    assert len(events) == model.moves
    at: str | None = None
    for before, after, actor, reason in events:
        assert before == at
        assert after in LEGAL[before]
        assert actor
        assert reason
        at = after
    assert at == model.state
