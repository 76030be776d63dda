"""Looks at every run after every strike, and at each run that has ended once more in full."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

import numpy as np
import psutil
from sqlmodel import select

from app.errors import TrainyardError
from app.models import ENDED, FAILED, FINISHED, Run
from ml.spec import RunSpec
from tests.faults.invariants import (
    assert_attempts_in_order,
    assert_contiguous,
    assert_files,
    assert_final_state,
    assert_legal,
    assert_undisturbed,
    strays,
)
from tests.faults.reference import reference
from tests.faults.yard import command_of
from tests.soak.crowd import Crowd, Json, Ticket
from tests.soak.grounds import Grounds

STRAY_S = 60.0
STUCK_S = 60.0  # a running run whose row was not written for so long hangs
SETTLE_S = 3.0  # after a run's last trainer has ended, its supervisor may still have to remove a checkpoint
# In our logs. Libraries log tracebacks, indented, when Redis goes away in their hands; that is why they are told apart.
BREAKDOWNS = re.compile(r"^(?:.*(?:tick failed|incident [0-9a-f]{8})|Traceback).*$", re.MULTILINE)


@dataclass
class Inspector:
    """`violations` is what the soak is for: it stays empty."""

    grounds: Grounds
    crowd: Crowd
    violations: list[str] = field(default_factory=list)
    looks: int = 0
    points: int = 0
    strays: dict[psutil.Process, float] = field(default_factory=dict)
    quiet: dict[str, float] = field(default_factory=dict)  # since when nothing works on a run that has ended
    attempts: list[int] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)

    def learn(self, specs: list[Json], threads: int) -> None:
        """Compute the undisturbed runs before the soak begins."""
        for fields in specs:
            spec = RunSpec.model_validate(fields)
            reference(spec, threads, spec.total_steps)

    def look(self) -> None:
        """At all runs that have not ended, as they are at this moment, and at the processes."""
        for ticket in self._open():
            self._judge(ticket, self._look_at)
        self._watch_strays()

    def _watch_strays(self) -> None:
        """A trainer that was still importing torch when its worker died ends when it would read its job."""
        at = time.monotonic()
        self.strays = {one: self.strays.get(one, at) for one in strays(self.grounds.yard)}
        for stray in [one for one, since in self.strays.items() if at - since > STRAY_S]:
            self.violate(f"process {stray.pid} outlived its parent: {command_of(stray)}")
            self.strays[stray] = at + 1e9  # once is enough

    def settle(self) -> None:
        """Check in full what has ended and nobody wants back."""
        for ticket in self._open():
            if ticket.resume_at is None:
                self._judge(ticket, self._settle)

    def finish(self) -> None:
        """What must hold at the very end, when nothing runs and nobody asks any more."""
        yard = self.grounds.yard
        kept = {ticket.run_id or ticket.key for ticket in self.crowd.tickets if not ticket.deleted}
        with yard.db.read() as s:
            rows = s.exec(select(Run.id)).all()
        if set(rows) != kept or len(rows) != len(kept):
            self.violate(f"{len(rows)} rows for {len(kept)} requests: {sorted(set(rows) ^ kept)}")
        folders = {path.name for path in (yard.directory / "runs").iterdir()}
        if folders - kept:
            self.violate(f"folders of deleted runs: {sorted(folders - kept)}")
        hidden = [str(path) for part in ("runs", "images") for path in (yard.directory / part).rglob(".*")]
        if hidden:
            self.violate(f"temporary files are left: {hidden}")
        for path in sorted(yard.directory.glob("*.log")):
            for line in BREAKDOWNS.findall(path.read_text(errors="replace")):
                self.violate(f"{path.name}: {line}")

    def take_complaints(self) -> None:
        while self.crowd.complaints:
            self.violate(self.crowd.complaints.pop())
        for told in self.grounds.mend():
            self.violate(told)

    def unfinished(self) -> list[Ticket]:
        return [ticket for ticket in self.crowd.tickets if not ticket.checked]

    # -- one run ----------------------------------------------------------------------------------------------

    def _open(self) -> list[Ticket]:
        return [ticket for ticket in list(self.crowd.tickets) if ticket.run_id and not ticket.checked]

    def _judge(self, ticket: Ticket, judge: object) -> None:
        assert callable(judge)
        assert ticket.run_id is not None
        try:
            judge(ticket)
        except TrainyardError:
            return  # the database is away just now
        except (AssertionError, KeyError) as error:
            ticket.checked = True  # once is enough
            self.violate(f"{error}\n{self.grounds.yard.describe(ticket.run_id)}")

    def _look_at(self, ticket: Ticket) -> None:
        """A run that goes on, read so that row, points and events are of one moment."""
        yard, run_id = self.grounds.yard, ticket.run_id
        assert run_id is not None
        for _ in range(10):
            run = yard.run(run_id)
            series, events = yard.series(run_id), yard.events(run_id)
            if yard.run(run_id).revision == run.revision:
                break
        else:
            return  # it is written to faster than we read
        for metric, found in series.items():
            if metric.startswith("train/"):
                assert np.array_equal(found.steps, np.arange(1, len(found.steps) + 1)), (
                    f"{metric}: {found.steps}"
                )
                assert len(found.steps) >= run.step, f"{metric} ends before step {run.step}"
        assert_undisturbed(series, run)
        assert_attempts_in_order(series, events)
        assert_legal(events, run)
        silent = time.time() - run.updated_at
        assert run.state != "running" or silent < STUCK_S, f"nothing was written for {silent:.0f} s"
        self.looks += 1

    def _settle(self, ticket: Ticket) -> None:
        assert ticket.run_id is not None
        yard = self.grounds.yard
        run = yard.run(ticket.run_id)
        over = run.state in ENDED and ticket.resume_at is None and not yard.trainers_of(run.id)
        self.quiet[run.id] = self.quiet.get(run.id, time.monotonic()) if over else time.monotonic()
        if not over or time.monotonic() - self.quiet[run.id] < SETTLE_S:
            return
        assert run.state != FAILED, f"failed: {run.error}"
        if run.attempt:
            self._check(run)
        ticket.checked = True
        self.attempts.append(run.attempt)
        self.ended[run.state] = self.ended.get(run.state, 0) + 1

    def _check(self, run: Run) -> None:
        """All that `invariants.assert_intact` checks, but for the processes: see `_watch_strays`."""
        yard = self.grounds.yard
        series, events = yard.series(run.id), yard.events(run.id)
        assert_contiguous(series, run)
        assert_undisturbed(series, run)
        assert_attempts_in_order(series, events)
        assert_legal(events, run)
        assert_files(yard, run)
        if run.state == FINISHED:
            assert_final_state(yard, run)
        self.points += sum(len(found.steps) for found in series.values())

    def violate(self, what: str) -> None:
        self.violations.append(what)
        print(f"\nVIOLATION {len(self.violations)}: {what}\n", flush=True)
