"""What must hold of every run, whatever was done to it. `assert_intact` says all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import psutil

from app.models import CANCELED, ENDED, FAILED, FINISHED, PAUSED, QUEUED, RUNNING, Run, RunEvent
from ml import checkpoint
from ml.spec import RunSpec
from tests.bits import assert_same_bits
from tests.faults.reference import reference
from tests.faults.yard import GONE_S, Series, Yard, command_of
from tests.processes import wait_for

LEGAL = {  # DESIGN, "Run states": written again and not imported
    None: {QUEUED},
    QUEUED: {RUNNING, CANCELED},
    RUNNING: {RUNNING, FINISHED, FAILED, CANCELED, PAUSED, QUEUED},
    PAUSED: {QUEUED, CANCELED},
    FAILED: {QUEUED},
    CANCELED: {QUEUED},
    FINISHED: set(),
}
_FROM_STEP = re.compile(r"(?:resume[sd] from|goes on from|went on from) step ([\d,]+)")
_FILE = re.compile(r"checkpoint-\d+-\d+\.pt")


def assert_intact(yard: Yard, run_id: str, *, final_state: bool = False) -> Run:
    """The run's row, after everything that must hold of a run was checked; call it when nothing writes any more.

    Every step from 1 to the last has one point; they are those of an undisturbed run; each attempt has one range of
    steps; the event log is a legal chain; no process is left that should not be there, and no file half written. With
    `final_state`, of a finished run: its last checkpoint is that of an undisturbed run bit by bit.
    """
    run = yard.run(run_id)
    series = yard.series(run_id)
    events = yard.events(run_id)
    assert_contiguous(series, run)
    assert_undisturbed(series, run)
    assert_attempts_in_order(series, events)
    assert_legal(events, run)
    assert_files(yard, run)
    assert_no_orphan(yard, run)
    if final_state:
        assert_final_state(yard, run)
    return run


def assert_contiguous(series: Mapping[str, Series], run: Run) -> None:
    """Steps 1 to the last, each once and in order, in every metric of the training; the row tells the same."""
    for metric in (name for name in series if name.startswith("train/")):
        steps = series[metric].steps
        assert np.array_equal(steps, np.arange(1, len(steps) + 1)), f"{metric}: {_first_break(steps)}"
        assert len(steps) == run.step, f"{metric} has {len(steps)} points, and the row says step {run.step}"
    for metric in (name for name in series if name.startswith("val/")):
        steps = series[metric].steps
        evaluated = run.steps_per_epoch * np.arange(1, len(steps) + 1)
        assert np.array_equal(steps, evaluated), f"{metric}: {steps.tolist()}"
    if run.state == FINISHED:
        assert run.step == run.total_steps
        assert len(series["val/accuracy"].steps) == run.total_steps // run.steps_per_epoch


def assert_undisturbed(series: Mapping[str, Series], run: Run) -> None:
    """Every value is that of an undisturbed run of the same spec, bit by bit."""
    if not series:
        return
    expected = reference(RunSpec.model_validate(run.spec), run.resolved["threads"], run.step).points
    missing = set(expected) - set(series)
    assert not missing or run.step <= run.steps_per_epoch, f"no points of {missing}"
    for metric, found in series.items():
        wanted = np.array([expected[metric][step] for step in found.steps.tolist()], np.float64)
        if not np.array_equal(found.values, wanted, equal_nan=True):
            first = int(np.flatnonzero(found.values != wanted)[0])
            raise AssertionError(
                f"{metric} at step {found.steps[first]} is {found.values[first]!r}, undisturbed {wanted[first]!r}"
            )


def assert_attempts_in_order(series: Mapping[str, Series], events: list[RunEvent]) -> None:
    """One range of steps an attempt, one after the other, each from where its claim says that it goes on.

    A point does not name its attempt; its time does, as an attempt's points are measured after its claim and before the
    next one. A superseded attempt's late write would lie among those of its successor and break the order of times.
    """
    claims = [event for event in events if (event.from_state, event.to_state) == (QUEUED, RUNNING)]
    for metric, found in series.items():
        assert (np.diff(found.times) >= 0).all(), f"{metric}: times go back"
        attempts = np.searchsorted([claim.at for claim in claims], found.times, side="right")
        assert attempts.min() >= 1, f"{metric}: a point older than the first claim"
        if metric == "train/loss":
            _assert_ranges(found.steps, attempts, events)


def _assert_ranges(
    steps: np.ndarray[Any, Any], attempts: np.ndarray[Any, Any], events: list[RunEvent]
) -> None:
    """Where an attempt has points, they begin behind the step that it went on from."""
    began = {1: 0}
    for event in events:
        told = _FROM_STEP.search(event.reason)
        if event.to_state == RUNNING:
            if event.from_state == QUEUED or "starts again" in event.reason:
                began[event.attempt] = 0
            if told is not None:
                began[event.attempt] = int(told.group(1).replace(",", ""))
    for attempt in np.unique(attempts).tolist():
        first = int(steps[attempts == attempt][0])
        assert first == began[attempt] + 1, (
            f"attempt {attempt} goes on from {began[attempt]}, first point {first}"
        )


def assert_legal(events: list[RunEvent], run: Run) -> None:
    """A chain from nothing to the run's state by legal transitions; attempts are counted by claims."""
    state: str | None = None
    attempt, at = 0, 0.0
    for event in events:
        assert event.from_state == state, f"{event.from_state} -> {event.to_state} after {state}"
        assert event.to_state in LEGAL[state], f"{state} -> {event.to_state} is not legal"
        attempt += (state, event.to_state) == (QUEUED, RUNNING)
        assert event.attempt == attempt, f"an event of attempt {event.attempt} in attempt {attempt}"
        assert event.at >= at, "events go back in time"
        assert event.reason.strip()
        assert event.actor.strip()
        state, at = event.to_state, event.at
    assert (state, attempt) == (run.state, run.attempt)
    if run.state in ENDED:
        assert run.ended_at is not None
        assert run.lease_until is None
        assert not run.cancel_requested
        assert not run.pause_requested


def assert_files(yard: Yard, run: Run) -> None:
    """In the run's folder lie logs and at most two checkpoints; the one that the row points to is whole."""
    folder = yard.directory / "runs" / run.id
    names = yard.files(run.id)
    assert [name for name in names if not _FILE.fullmatch(name)] == [], "files that are none of a run's"
    pointed = (
        [] if run.checkpoint is None else [run.checkpoint, *filter(None, [run.checkpoint.get("previous")])]
    )
    if run.state in ENDED:  # a live attempt may just write one
        assert set(names) == {pointer["file"] for pointer in pointed}, (names, pointed)
    for pointer in pointed[:1]:
        assert checkpoint.load(folder / pointer["file"], pointer["sha256"])["step"] == pointer["step"]


def assert_no_orphan(yard: Yard, run: Run) -> None:
    """Soon every process of the yard is the web process, a worker or a worker's child; none trains an ended run."""

    def look() -> bool:
        trains = yard.trainers_of(run.id)
        return not strays(yard) and len(trains) <= (run.state == RUNNING)

    try:
        wait_for(look, "strays to end", GONE_S)
    except AssertionError:
        left = [(p.pid, command_of(p)) for p in (*strays(yard), *yard.trainers_of(run.id))]
        raise AssertionError(f"processes are left: {left}") from None


def strays(yard: Yard) -> list[psutil.Process]:
    """Processes of the yard that nobody who should live started."""
    ours = {yard.web.process.pid, *(worker.pid for worker in yard.workers)}
    parents = {process: parent for process in yard.processes() if (parent := parent_of(process)) is not None}
    servers = {process.pid for process, parent in parents.items() if parent in ours and is_server(process)}
    return [
        process
        for process, parent in parents.items()
        if process.pid not in ours and parent not in ours | servers
    ]


def parent_of(process: psutil.Process) -> int | None:
    with suppress(psutil.NoSuchProcess):
        return process.ppid()
    return None


def is_server(process: psutil.Process) -> bool:
    """Whether trainers are forked from it."""
    return "worker.forkserver" in command_of(process)


def assert_final_state(yard: Yard, run: Run) -> None:
    """Weights, optimizer state and generators at the end are those of an undisturbed run."""
    assert run.checkpoint is not None
    path = yard.directory / "runs" / run.id / run.checkpoint["file"]
    spec = RunSpec.model_validate(run.spec)
    wanted = reference(spec, run.resolved["threads"], run.total_steps).final_state
    assert wanted is not None
    assert_same_bits(checkpoint.load(path, run.checkpoint["sha256"]), wanted)


def _first_break(steps: np.ndarray[Any, Any]) -> str:
    """Where steps are not 1, 2, 3, ..."""
    if len(steps) and steps[0] != 1:
        return f"begins with step {steps[0]}"
    for before, after in pairwise(steps.tolist()):
        if after != before + 1:
            return f"step {after} comes after {before}"
    return "whole"
