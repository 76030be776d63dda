"""Before a run is queued: what its network is, what it will need, and whether any slot here has it.

What a network is comes from a worker (app/anatomies.py), as the web process never loads torch; the rest is arithmetic.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from app import anatomies, gpus, workers
from app.db import Database
from app.epochs import Measured, measure_epoch
from app.errors import Invalid, Unavailable
from app.estimate import (
    Memory,
    Slot,
    as_size,
    count_data,
    count_processes,
    count_threads,
    estimate_epoch,
    estimate_memory,
    explain_compiler,
    explain_refusal,
    field_to_change,
    fits,
    is_for,
    lacks_compiler,
    read_slot,
)
from ml.catalog import MODELS
from ml.spec import RunSpec

WAIT_S = 10.0  # a worker that has to load torch first takes some seconds; a server that stops waits for us
SUBMIT_WAIT_S = 5.0
LOOK_S = 0.05
MOST_WAITING = 8  # requests that wait for workers; each holds a thread
RUNS, ESTIMATE = "runs", "estimate"
# No network of the catalog keeps more a pixel of its input and image for the backward pass (tests/test_estimate.py).
MOST_KEPT = 30_000

_places = threading.BoundedSemaphore(MOST_WAITING)


@dataclass(frozen=True)
class Preflight:
    """What is known of a spec. `slot` is the largest that it may have, None while no worker has one.

    `problem` says why it cannot run, and `field` what to change; both are empty where it can. `caution` is no reason
    against it. `epoch_s` comes from `runs` finished runs, or from an estimate where that is 0.
    """

    spec: RunSpec
    anatomy: Mapping[str, Any]
    slot: Slot | None = None
    memory: Memory | None = None
    epoch_s: float | None = None
    runs: int = 0
    problem: str = ""
    field: str = ""
    caution: str = ""

    @property
    def source(self) -> str | None:
        """Where the time comes from."""
        if self.epoch_s is None:
            return None
        return RUNS if self.runs else ESTIMATE


def check(db: Database, spec: RunSpec, wait_s: float = WAIT_S) -> Preflight:
    """Look at a spec, with a worker's help where its network was not looked at before; takes `wait_s` at most.

    Raises: Unavailable when no worker is here, or none answers in time.
    """
    question = anatomies.question_of(spec)
    with db.read() as s:
        anatomy = anatomies.read_answer(s, question)
        here = workers.list_present(s)
    if anatomy is not None and not here:
        return judge(spec, anatomy, None, None)
    if not here:
        raise Unavailable(
            "no worker is here to look at the network; start one with `trainyard worker`, or queue the run as it is"
        )
    if not _places.acquire(blocking=False):
        raise Unavailable("too many wait for the workers to look at networks; try again in a few seconds")
    try:
        return _wait(db, spec, question, time.monotonic() + wait_s)
    finally:
        _places.release()


def _wait(db: Database, spec: RunSpec, question: anatomies.Question, deadline: float) -> Preflight:
    """Until a worker has said what the network is and how fast its slot computes."""
    asked = False
    while True:
        with db.read() as s:
            anatomy = anatomies.read_answer(s, question)
            slot, measured = (None, None) if anatomy is None else read_place(s, spec)
            most_gpus = gpus.count_most(s)
            awaited = slot is not None and measured is None and is_measuring(s, slot)
        late = time.monotonic() >= deadline
        if anatomy is not None and (late or not awaited):
            return judge(spec, anatomy, slot, measured, most_gpus)
        if late:
            raise Unavailable("no worker has looked at the network in time; try again in a moment")
        if not asked:
            asked = True
            with db.begin() as s:
                anatomies.ask(s, question)
        time.sleep(LOOK_S)


def read_place(s: Session, spec: RunSpec) -> tuple[Slot | None, Measured | None]:
    """The largest slot for the spec, and what finished runs took on such a one."""
    slot = choose_slot(spec, list_slots(s))
    if slot is None:
        return None, None
    return slot, measure_epoch(s, spec, slot.device, count_threads(spec, slot))


def choose_slot(spec: RunSpec, slots: Iterable[Slot]) -> Slot | None:
    """The largest for the spec of those that can compile it, where it asks for that and any can."""
    fitting = [slot for slot in slots if is_for(spec, slot)]
    return max(fitting, key=lambda slot: (not lacks_compiler(spec, slot), slot.memory), default=None)


def list_slots(s: Session) -> list[Slot]:
    """A slot of each worker that is here and stays."""
    stay = [worker for worker in workers.list_present(s) if not worker.drain]
    found = [read_slot(w.name, w.host, w.slots, w.gpus, w.capacity) for w in stay]
    return [slot for slot in found if slot is not None]


def is_measuring(s: Session, slot: Slot) -> bool:
    """Whether its worker is still to say how fast it computes."""
    return any("pace" not in w.capacity for w in workers.list_present(s) if w.name == slot.worker)


def judge(
    spec: RunSpec,
    anatomy: Mapping[str, Any],
    slot: Slot | None,
    measured: Measured | None,
    most_gpus: int = 0,
) -> Preflight:
    """Put together what is known; `most_gpus` is how many one run can have here. Pure."""
    if "error" in anatomy:
        return Preflight(spec, {}, slot, problem=str(anatomy["error"]), field="model")
    device = slot.device if slot else "cuda" if spec.device == "cuda" else "cpu"
    memory = estimate_memory(spec, anatomy, device, slot.bf16 if slot else True)
    epoch_s = None
    if measured is not None:
        epoch_s = measured.seconds
    elif slot is not None:
        epoch_s = estimate_epoch(spec, anatomy, slot)
    caution = explain_too_few(spec, most_gpus)
    known = Preflight(spec, anatomy, slot, memory, epoch_s, measured.runs if measured else 0, caution=caution)
    if slot is None:
        return known
    if lacks_compiler(spec, slot):
        return Preflight(**{**vars(known), "problem": explain_compiler(slot), "field": "compile"})
    if not fits(spec, anatomy, slot):
        problem, field = explain_refusal(spec, anatomy, slot), field_to_change(spec, anatomy, slot)
        return Preflight(**{**vars(known), "problem": problem, "field": field})
    return Preflight(**{**vars(known), "caution": caution or find_caution(slot, memory)})


def explain_too_few(spec: RunSpec, most_gpus: int) -> str:
    """What people should know of a run that would leave idle the GPUs that there are."""
    if spec.device != "auto" or not 0 < most_gpus < spec.devices:
        return ""
    return (
        f"no worker has {spec.devices} GPUs for one run, so it would train in as many processes of a CPU, which is far "
        f"slower: try devices {most_gpus}"
    )


def find_caution(slot: Slot, memory: Memory) -> str:
    """What people should know of a run that fits, but not beside others of its size."""
    share = slot.memory // slot.slots if slot.device == "cpu" else slot.memory
    if memory.total <= share:
        return ""
    return (
        f"takes {as_size(memory.total)} of the {as_size(slot.memory)} that {slot.slots} slots share: other runs beside "
        "it may find too little"
    )


def refuse_impossible(db: Database, specs: Iterable[RunSpec]) -> None:
    """Do not let those queue that no slot here has the memory or the compiler for. One that nobody can judge in time
    may queue.

    Raises: Invalid, naming the field to change.
    """
    wanted = list(specs)
    with db.read() as s:
        slots = list_slots(s)
    for spec in wanted:
        slot = choose_slot(spec, slots)
        if slot is not None and lacks_compiler(spec, slot):
            raise Invalid(explain_compiler(slot), "spec.compile")
    looked_at: set[str] = set()
    for spec in wanted:
        if not might_be_large(spec, slots) or (key := _memory_key(spec)) in looked_at:
            continue
        looked_at.add(key)
        try:
            found = check(db, spec, SUBMIT_WAIT_S)
        except Unavailable:
            return
        if found.problem:
            raise Invalid(found.problem, f"spec.{found.field}")


def might_be_large(spec: RunSpec, slots: Sequence[Slot]) -> bool:
    """Whether a worker needs to be asked: a bound that holds for every network says that small ones fit anywhere."""
    side = spec.model_options.get("image_size")
    _c, height, width = anatomies.question_of(spec)["shape"]
    pixels = side * side if side else height * width
    batch, model = spec.batch_size * pixels * MOST_KEPT, MODELS[spec.model].parameters * 40

    def most(device: str) -> float:
        ranks = spec.devices if device == "cpu" else 1
        others = count_processes(ranks) - count_processes(1)
        return float(batch + ranks * (model + count_data(spec, device)) + others)

    return any(most(slot.device) > slot.memory / 2 for slot in slots if is_for(spec, slot))


def _memory_key(spec: RunSpec) -> str:
    """All that its memory depends on."""
    names = {"epochs", "lr", "momentum", "weight_decay", "seed", "schedule", "warmup_epochs"}
    return spec.model_dump_json(exclude=names)
