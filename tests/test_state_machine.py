"""Random walks over the transitions of runs, against a plain table: what is legal happens, what is not is refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import update
from sqlmodel import Session, select

from app import runs
from app.db import Database
from app.errors import Conflict, Fenced
from app.models import CANCELED, ENDED, FAILED, FINISHED, PAUSED, QUEUED, RUNNING, Run
from app.runs import Flags, NewRun
from ml.spec import RunSpec

T = TypeVar("T")
MAX_FAILURES = 2

LEGAL = {  # DESIGN, "Run states"
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
    """What a run must look like."""

    external: bool
    state: str
    attempt: int = 0
    failures: int = 0
    seq: int = 0
    cancel: bool = False
    pause: bool = False

    def move(self, state: str) -> None:
        self.state, self.cancel, self.pause = state, False, False

    def asked_for(self, otherwise: str) -> str:
        return CANCELED if self.cancel else PAUSED if self.pause else otherwise


class Runs(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self, migrated_file: Path) -> None:
        super().__init__()
        self.dir = tempfile.TemporaryDirectory()
        self.db = Database(f"sqlite:///{shutil.copy(migrated_file, self.dir.name)}")
        self.models: dict[str, Model] = {}

    def teardown(self) -> None:
        """The event logs are legal chains from nothing to the states that the runs have."""
        with self.db.read() as s:
            for run_id, model in self.models.items():
                at: str | None = None
                for event in runs.list_events(s, run_id):
                    assert event.from_state == at
                    assert event.to_state in LEGAL[at]
                    at = event.to_state
                assert at == model.state
        self.db.dispose()
        self.dir.cleanup()

    def does(self, action: Callable[[Session], T]) -> T | type[Conflict]:
        """The answer of one transaction; the error's class when it was refused."""
        try:
            with self.db.begin() as s:
                return action(s)
        except Conflict as error:
            return type(error)

    @rule(target=ids, external=st.booleans())
    def create(self, external: bool) -> str:
        return self.new_run(external)

    def new_run(self, external: bool) -> str:
        new = NewRun(None if external else RunSpec())
        with self.db.begin() as s:
            run, _ = runs.create_run(s, new, max_queued=1000)
        self.models[run.id] = Model(external, RUNNING if external else QUEUED)
        return run.id

    @rule(run_id=ids)
    def claim(self, run_id: str) -> None:
        model = self.models[run_id]
        with self.db.begin() as s:
            s.execute(update(Run).values(not_before=0))
        claimed = self.does(lambda s: runs.claim_run(s, run_id, "w", 20))
        assert (claimed is not None) == (model.state == QUEUED)
        if model.state == QUEUED:
            model.move(RUNNING)
            model.attempt += 1

    @rule(run_id=ids, late=st.integers(0, 1))
    def report(self, run_id: str, late: int) -> None:
        model = self.models[run_id]
        if model.external:
            return  # a worker never gets one
        found = self.does(
            lambda s: runs.report(s, run_id, model.attempt - late, model.seq + 1, {}, lease_s=20)
        )
        if model.state == RUNNING and not late:
            model.seq += 1
            assert found == Flags(model.cancel, model.pause)
        else:
            assert found is Fenced

    @rule(run_id=ids, late=st.integers(0, 1), state=st.sampled_from([FINISHED, FAILED, CANCELED, PAUSED]))
    def end(self, run_id: str, late: int, state: str) -> None:
        model = self.models[run_id]
        if model.external:
            return
        found = self.does(lambda s: runs.end_run(s, run_id, model.attempt - late, state, "w", "end"))
        if model.state == RUNNING and not late:
            assert found is None
            model.move(CANCELED if state == PAUSED and model.cancel else state)
        else:
            assert found is Fenced

    @rule(run_id=ids, late=st.integers(0, 1))
    def release(self, run_id: str, late: int) -> None:
        model = self.models[run_id]
        if model.external:
            return
        found = self.does(lambda s: runs.release_run(s, run_id, model.attempt - late, "w", "release"))
        assert found == (model.state == RUNNING and not late)
        if found is True:
            model.move(model.asked_for(QUEUED))

    @rule(run_id=ids)
    def die(self, run_id: str) -> None:
        model = self.models[run_id]
        if model.external:
            return

        def give_back(s: Session) -> str | None:
            run = runs.get_run(s, run_id, lock=True)
            return runs.give_back(s, run, "w", "died", max_failures=MAX_FAILURES)

        found = self.does(give_back)
        assert found == self.expect_death(model)

    def expect_death(self, model: Model) -> str | None:
        if model.state != RUNNING:
            return None
        state = model.asked_for(FAILED if model.failures + 1 >= MAX_FAILURES else QUEUED)
        if state in (QUEUED, FAILED):
            model.failures += 1
        model.move(state)
        return state

    @rule(expired=st.sets(ids, max_size=3))
    def reap(self, expired: set[str]) -> None:
        with self.db.begin() as s:
            for run_id in expired:
                if self.models[run_id].state == RUNNING and not self.models[run_id].external:
                    s.execute(update(Run).where(Run.id == run_id).values(lease_until=1.0))  # type: ignore[arg-type]
            taken = dict(runs.reap_expired(s, max_failures=MAX_FAILURES))
        for run_id in expired:
            model = self.models[run_id]
            assert taken.pop(run_id, None) == (None if model.external else self.expect_death(model))
        assert not taken

    @rule(run_id=ids)
    def cancel(self, run_id: str) -> None:
        model = self.models[run_id]
        found = self.does(lambda s: runs.request_cancel(s, run_id))
        if model.state in (QUEUED, PAUSED) or (model.external and model.state == RUNNING):
            model.move(CANCELED)
        elif model.state == RUNNING:
            model.cancel = True
        else:
            assert found is Conflict

    @rule(run_id=ids)
    def pause(self, run_id: str) -> None:
        model = self.models[run_id]
        found = self.does(lambda s: runs.request_pause(s, run_id))
        if model.state == RUNNING and not model.external:
            model.pause = True
        else:
            assert found is Conflict

    @rule(run_id=ids)
    def resume(self, run_id: str) -> None:
        model = self.models[run_id]
        found = self.does(lambda s: runs.resume_run(s, run_id))
        if model.state in (PAUSED, FAILED, CANCELED) and not model.external:
            model.move(QUEUED)
            model.failures = 0
        else:
            assert found is Conflict

    @rule(run_id=ids, state=st.sampled_from(ENDED))
    def finish_external(self, run_id: str, state: str) -> None:
        model = self.models[run_id]
        found = self.does(lambda s: runs.finish_external(s, run_id, state, None))
        if model.external and model.state == RUNNING:
            model.move(state)
        else:
            assert found is Conflict

    @rule(target=ids, run_id=consumes(ids))
    def delete_or_keep(self, run_id: str) -> str:
        model = self.models[run_id]
        found = self.does(lambda s: runs.delete_run(s, run_id))
        if model.state in (QUEUED, RUNNING):
            assert found is Conflict
            return run_id
        del self.models[run_id]
        return self.new_run(model.external)

    @invariant()
    def rows_are_as_the_table_says(self) -> None:
        with self.db.read() as s:
            for run in s.exec(select(Run)):
                model = self.models[run.id]
                found = Model(
                    run.kind == "external", run.state, run.attempt, run.failures, run.seq,
                    run.cancel_requested, run.pause_requested,
                )  # fmt: skip
                assert found == model
                assert (run.lease_until is not None) == (run.state == RUNNING and not model.external)
                assert (run.ended_at is not None) == (run.state in ENDED)


def test_random_walks_keep_to_the_table(migrated_file: Path) -> None:
    steps = settings(max_examples=40, stateful_step_count=30, deadline=None)

    class Walk(Runs):
        def __init__(self) -> None:
            super().__init__(migrated_file)

    run_state_machine_as_test(Walk, settings=steps)
