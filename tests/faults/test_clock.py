"""F23: the clock is set, by an hour forwards and back."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import pytest

from tests.faults import yard as yard_module
from tests.faults.figures import Figures
from tests.faults.invariants import assert_contiguous, assert_undisturbed
from tests.faults.yard import LONG, QUICK, a_yard, kill, pause
from tests.processes import ROOT, Postgres

HOUR_S = 3600.0


class Clock:
    """The clock of all processes that this test starts from here on: see `saboteur/set_clock.py`."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(struct.pack("=d", 0.0))
        with path.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), 8)

    def set(self, offset_s: float) -> None:
        self._offset[:] = struct.pack("=d", offset_s)


@pytest.fixture
def clock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Clock:
    folder = tmp_path_factory.mktemp("clock")
    source = yard_module.SABOTEUR.with_name("set_clock.py").read_text()
    source = source.replace("OFFSET_FILE", str(folder / "offset"))
    (folder / "web").mkdir()
    (folder / "web" / "sitecustomize.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'web'}{os.pathsep}{ROOT}")
    saboteur = yard_module.SABOTEUR.read_text()  # of workers: Python takes one such file
    before = "import ml.schedules\n"
    (folder / "sitecustomize.py").write_text(saboteur.replace(before, f"exec({source!r})\n{before}", 1))
    monkeypatch.setattr(yard_module, "SABOTEUR", folder / "sitecustomize.py")
    return Clock(folder / "offset")


def test_a_clock_that_is_set_takes_no_run_and_keeps_none(
    clock: Clock, tmp_path: Path, figures: Figures
) -> None:
    """F23a clock set by an hour: no run changes hands, and one whose worker then dies is not kept for an hour."""
    with a_yard(tmp_path) as yard, yard.worker(slots=2) as worker:
        run_id = yard.submit(LONG)
        yard.wait_steps(run_id, 5)
        for offset_s in (HOUR_S, 0.0):
            clock.set(offset_s)
            pause(yard.lease_s + 2)  # a lease that seems to have expired is taken by then
            at = yard.run(run_id).step
            yard.wait_steps(run_id, at + 5)
        assert yard.run(run_id).attempt == 1, yard.describe(run_id)

        clock.set(HOUR_S)
        lease = yard.run(run_id).lease_until
        yard.wait(
            run_id, lambda run: (run.lease_until or 0) > (lease or 0) + HOUR_S / 2, "a lease of the new time"
        )
        kill(worker)  # its lease lies an hour ahead of what the clock says next
        clock.set(0.0)
        figures.strike()
        with yard.worker(slots=2):
            yard.wait(run_id, lambda run: run.attempt == 2 and run.step > 0, "another attempt")
            figures.since(yard.backend, "another attempt trains")
            yard.finish(yard.submit(QUICK))
            yard.cancel(run_id)
            run = yard.run(run_id)  # its points' times go back, as the clock did
            assert_contiguous(yard.series(run_id), run)
            assert_undisturbed(yard.series(run_id), run)


def test_a_worker_whose_clock_is_wrong_is_measured_by_postgres(
    clock: Clock, tmp_path: Path, postgres: Postgres, figures: Figures
) -> None:
    """F23b clock of a worker wrong by an hour: leases are measured with Postgres's own, nothing happens."""
    with a_yard(tmp_path, database_url=postgres.create_database()) as yard, yard.worker(slots=2):
        run_id = yard.submit(LONG)
        yard.wait_steps(run_id, 5)
        figures.strike()
        for offset_s in (HOUR_S, -HOUR_S):
            clock.set(offset_s)
            pause(yard.lease_s + 2)
        at = yard.run(run_id).step
        yard.wait_steps(run_id, at + 5)
        clock.set(0.0)
        yard.cancel(run_id)
        run = yard.run(run_id)
        assert (run.attempt, run.failures) == (1, 0), yard.describe(run_id)
        assert_contiguous(yard.series(run_id), run)
        assert_undisturbed(yard.series(run_id), run)
