"""Random walks over the transitions of runs, against a plain model: what is legal happens, the rest is refused."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
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
from sqlmodel import Session, select

from app import runs
from app.db import Database
from app.errors import Conflict
from app.models import QUEUED, RUNNING, Run
from app.runs.transition import NEXT
from tests.walks import LEGAL, MAX_FAILURES, STEPS, Does, Model, Step, check, create, let_expire

T = TypeVar("T")

# Ways to go on after each step of a walk: their product is the number of walks. The first step is every one there is.
SQLITE = (len(STEPS), 2, 2, 2, 2, 2, 15)
POSTGRES = (len(STEPS), 2, 2, 1, 1, 1, 5)
EXTERNAL = (len(STEPS), 3, 3)  # it can do little


def test_the_table_of_transitions_is_that_of_the_design() -> None:
    assert {state: set(following) for state, following in NEXT.items()} == {
        state: following - {RUNNING} if state == RUNNING else following for state, following in LEGAL.items()
    }


# -- many walks of one run, which share their beginnings ------------------------------------------------------


class Tree:
    """Walks of one run as a tree: each way on is taken in a savepoint and undone, so a beginning is walked once."""

    def __init__(self, s: Session, run_id: str, seed: int) -> None:
        self.s, self.run_id, self.random = s, run_id, random.Random(seed)
        self.walked: set[tuple[str, ...]] = set()

    def grow(self, model: Model, ways: Sequence[int], path: tuple[str, ...] = ()) -> None:
        """Every walk from here on: `ways` on at the next step, and so on."""
        if not ways:
            self.walked.add(path)
            return
        for name in self.choose(model, ways[0]):
            way, then = (*path, name), replace(model)
            savepoint = self.s.begin_nested()
            try:
                STEPS[name](Step(self.does, self.run_id, then))
                check(self.s, self.run_id, then)
            except Exception as error:
                raise AssertionError(f"after {', '.join(way)}: {error}") from error
            self.grow(then, ways[1:], way)
            savepoint.rollback()

    def choose(self, model: Model, count: int) -> list[str]:
        """Different steps; those that do something in this state come more often than those that are refused."""
        apt = {QUEUED: "claim", RUNNING: "checkpoint die expire end paused release pause cancel"}
        weight = {name: 3.0 if name in apt.get(model.state, "resume") else 1.0 for name in STEPS}
        order = sorted(STEPS, key=lambda name: self.random.random() ** (1 / weight[name]), reverse=True)
        return order[:count]

    def does(self, change: Callable[[Session], T]) -> T | type[Conflict]:
        try:
            return change(self.s)  # what refuses does so before it changes anything
        except Conflict as error:
            return type(error)


@pytest.mark.slow
@pytest.mark.timeout(900)  # twenty seconds of work, on a machine that may have much else to do
@pytest.mark.parametrize("external", [False, True], ids=["training", "external"])
def test_ten_thousand_walks_keep_to_the_table(db: Database, external: bool) -> None:
    ways: Sequence[int] = EXTERNAL if external else SQLITE if db.is_sqlite else POSTGRES
    with db.begin() as s:
        run_id, model = create(s, external)
        tree = Tree(s, run_id, seed=4)
        tree.grow(model, ways)
        check(s, run_id, model)
    assert len(tree.walked) > (10_000 if ways == SQLITE else 100)


# -- many runs at once, one transaction a step ----------------------------------------------------------------


class Runs(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self, migrated_file: Path) -> None:
        super().__init__()
        self.dir = tempfile.TemporaryDirectory()
        self.db = Database(f"sqlite:///{shutil.copy(migrated_file, self.dir.name)}")
        self.models: dict[str, Model] = {}

    def teardown(self) -> None:
        self.db.dispose()
        self.dir.cleanup()

    def does(self, change: Callable[[Session], T]) -> T | type[Conflict]:
        try:
            with self.db.begin() as s:
                return change(s)
        except Conflict as error:
            return type(error)

    def step(self, run_id: str) -> Step:
        does: Does = self.does
        return Step(does, run_id, self.models[run_id])

    @rule(target=ids, external=st.booleans())
    def create(self, external: bool) -> str:
        return self.new(external)

    def new(self, external: bool) -> str:
        with self.db.begin() as s:
            run_id, self.models[run_id] = create(s, external)
        return run_id

    @rule(run_id=ids, name=st.sampled_from(sorted(STEPS)))
    def take(self, run_id: str, name: str) -> None:
        STEPS[name](self.step(run_id))

    @rule(expired=st.sets(ids, max_size=3))
    def reap(self, expired: set[str]) -> None:
        with self.db.begin() as s:
            for run_id in expired:
                let_expire(s, run_id)
            taken = dict(runs.reap_expired(s, max_failures=MAX_FAILURES))
        for run_id in expired:
            external = self.models[run_id].external
            assert taken.pop(run_id, None) == (None if external else self.step(run_id).expect_death())
        assert not taken

    @rule(target=ids, run_id=consumes(ids))
    def delete_or_keep(self, run_id: str) -> str:
        model = self.models[run_id]
        found = self.does(lambda s: runs.delete_run(s, run_id))
        if model.state in (QUEUED, RUNNING):
            assert found is Conflict
            return run_id
        del self.models[run_id]
        return self.new(model.external)

    @invariant()
    def rows_are_as_the_models_say(self) -> None:
        with self.db.read() as s:
            assert set(s.exec(select(Run.id))) == self.models.keys()
            for run_id, model in self.models.items():
                check(s, run_id, model)


def test_many_runs_do_not_mind_each_other(migrated_file: Path) -> None:
    steps = settings(max_examples=25, stateful_step_count=30, deadline=None)

    class Walk(Runs):
        def __init__(self) -> None:
            super().__init__(migrated_file)

    run_state_machine_as_test(Walk, settings=steps)
