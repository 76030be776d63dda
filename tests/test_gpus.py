"""Runs that need GPUs which no worker has: where their messages lie, what people are told, which slots they get."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app import gpus, queue, runs, workers
from app.db import Database
from app.reaper import Reaper
from app.runs import NewRun
from app.settings import Settings
from ml.spec import MAX_DEVICES, RunSpec
from tests.processes import wait_for
from worker.capacity import read_bf16, read_sizes
from worker.slots import Slots, default_slots, divide_threads, read_gpus

LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-0000-0000-0000-000000000000)
  MIG 1g.10gb     Device  0: (UUID: MIG-5)
  MIG 3g.40gb     Device  1: (UUID: MIG-67)
GPU 1: Tesla T4 (UUID: GPU-22222222-0000-0000-0000-000000000000)
"""
STAY = threading.Event()


def submit(db: Database, **spec: Any) -> str:
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(RunSpec(**spec)), max_queued=10)
        gpus.note_missing(s, [run])
        return run.id


def phase(db: Database, run_id: str) -> str:
    with db.read() as s:
        return runs.get_run(s, run_id).phase


def present(db: Database, name: str, gpus_there: int) -> None:
    with db.begin() as s:
        workers.say_present(s, name, 4, ["CPU"], [], "", gpus_there)


# -- what people are told -------------------------------------------------------------------------------------


def test_a_run_says_that_it_waits_for_a_gpu_until_a_worker_has_one(db: Database, tmp_path: Path) -> None:
    present(db, "cpu-worker", 0)
    plain, one, two = submit(db), submit(db, device="cuda"), submit(db, device="cuda", devices=2)
    assert phase(db, plain) == ""
    assert phase(db, one) == "waits for a GPU; no worker has one"
    assert phase(db, two) == "waits for 2 GPUs of one host; no worker has any"
    present(db, "gpu-worker", 1)
    reaper = Reaper(db, Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1"))
    reaper.tick()
    assert phase(db, one) == ""  # it only waits for its turn
    assert phase(db, two) == "waits for 2 GPUs of one host; no worker here has more than 1"
    with db.begin() as s:
        assert gpus.find_changed(s) == []  # nothing is written when nothing has changed
        workers.request_drain(s, "gpu-worker", at_once=False)
    reaper.tick()
    assert phase(db, one) == "waits for a GPU; no worker has one"


def test_what_a_worker_says_of_a_run_is_left_alone(db: Database) -> None:
    run_id = submit(db, device="cuda")
    with db.begin() as s:
        runs.say_waiting(s, run_id, "waits for worker w: its disk has 3 MB free")
    with db.begin() as s:
        assert gpus.find_changed(s) == []


def test_stored_specs_from_before_need_one_gpu_at_most() -> None:
    assert gpus.count_needed({"device": "cuda"}) == 1
    assert gpus.count_needed({"device": "auto"}) == gpus.count_needed({}) == 0


# -- where their messages lie ---------------------------------------------------------------------------------


def test_only_workers_with_enough_gpus_read_a_queue() -> None:
    assert queue.queue_of(0) == queue.QUEUE
    assert queue.queues_for(0) == [queue.QUEUE]
    assert queue.queues_for(2) == [queue.QUEUE, queue.queue_of(1), queue.queue_of(2)]
    assert queue.queue_of(3) not in queue.queues_for(2)
    assert len(queue.queues_for(99)) == MAX_DEVICES + 1


# -- the spec -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "gpus_needed"),
    [({}, 0), ({"devices": 4}, 0), ({"device": "cuda"}, 1), ({"device": "cuda", "devices": 4}, 4)],
)
def test_a_spec_knows_how_many_gpus_it_needs(fields: dict[str, Any], gpus_needed: int) -> None:
    spec = RunSpec(**fields)
    assert spec.gpus == gpus.count_needed(spec.model_dump()) == gpus_needed


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"devices": 0}, "greater than or equal to 1"),
        ({"devices": MAX_DEVICES + 1}, "less than or equal to 16"),
        ({"devices": 8, "batch_size": 4}, "a batch of 4 images cannot be shared by so many"),
    ],
)
def test_devices_are_bounded(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as error:
        RunSpec(**fields)
    assert error.value.errors()[0]["loc"] == ("devices",)


# -- slots ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "there", "fields", "needed"),
    [
        (2, 0, {}, 1),
        (2, 0, {"devices": 2}, 1),  # processes that share the slot's threads
        (2, 0, {"device": "cuda"}, None),
        (4, 4, {"device": "cuda", "devices": 3}, 3),
        (4, 4, {"devices": 3}, 3),
        (4, 4, {"device": "cpu", "devices": 3}, 1),
        (2, 4, {"device": "cuda", "devices": 3}, None),  # a GPU is had with a slot
        (4, 2, {"device": "cuda", "devices": 3}, None),
        (4, 2, {"devices": 3}, 1),
    ],
)
def test_a_run_takes_a_slot_for_each_of_its_gpus(
    count: int, there: int, fields: dict[str, Any], needed: int | None
) -> None:
    assert Slots(count, there).count_needed(RunSpec(**fields).model_dump()) == needed


@pytest.mark.parametrize(
    ("gpus_there", "cores", "count", "threads"),
    [(0, 1, 1, 1), (0, 2, 2, 1), (0, 16, 2, 8), (1, 16, 1, 16), (8, 16, 8, 2), (4, 2, 4, 1)],
)
def test_cores_are_divided_by_the_slots(gpus_there: int, cores: int, count: int, threads: int) -> None:
    assert default_slots(gpus_there, cores) == count
    assert divide_threads(cores, count) == threads


def test_several_slots_are_taken_at_once_each_with_a_gpu_of_its_own() -> None:
    slots = Slots(4, 2)  # slots 0 and 2 share the first GPU
    assert slots.gpus == 2
    assert slots.acquire(1, STAY) == [0]
    assert slots.acquire(2, STAY) == [1, 2]
    assert slots.acquire(1, STAY) == [3]
    slots.release([1, 2, 3])
    assert slots.acquire(2, STAY) == [1, 2]


def test_a_run_that_needs_many_slots_is_not_passed_by() -> None:
    """The two small ones that come later could go first for ever."""
    slots, order = Slots(2, 2), []

    def take(name: str, count: int) -> None:
        got = slots.acquire(count, STAY)
        order.append(name)
        slots.release(got)

    held = slots.acquire(1, STAY)
    threads = []
    for waiting, (name, count) in enumerate((("large", 2), ("small", 1)), 1):
        threads.append(threading.Thread(target=take, args=(name, count)))
        threads[-1].start()
        wait_for(lambda n=waiting: len(slots._waiting) == n, name)  # type: ignore[misc]
    slots.release(held)
    for thread in threads:
        thread.join(30)
    assert order == ["large", "small"]


def test_a_worker_that_leaves_waits_for_no_slot() -> None:
    slots, leaving = Slots(1), threading.Event()
    assert slots.acquire(1, leaving) == [0]
    got: list[list[int]] = []
    waiting = threading.Thread(target=lambda: got.append(slots.acquire(1, leaving)))
    waiting.start()
    leaving.set()
    waiting.join(30)
    assert got == [[]]


H100, H100_3G = "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100 80GB HBM3 MIG 3g.40gb"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, [H100, "Tesla T4"]),  # of a GPU in slices CUDA shows the first
        ("", []),
        ("-1", []),
        ("1", ["Tesla T4"]),
        ("1,0", ["Tesla T4", H100]),
        ("0,7,1", [H100]),  # CUDA stops at the first that there is not
        ("GPU-2222", ["Tesla T4"]),
        ("MIG-6", [H100_3G]),
        ("MIG-5,MIG-67", [H100]),  # one slice a process
        ("MIG-9", []),
    ],
)
def test_gpus_are_those_that_cuda_would_show(visible: str | None, names: list[str]) -> None:
    assert [gpu.name for gpu in read_gpus(LISTED, visible)] == names


def test_a_host_without_gpus_lists_none() -> None:
    assert read_gpus("No devices were found\n", None) == []


def test_the_memory_is_that_of_the_gpus_that_are_visible() -> None:
    total = {
        "GPU-11111111-0000-0000-0000-000000000000": "81559",
        "GPU-22222222-0000-0000-0000-000000000000": "15360",
    }
    assert read_sizes(read_gpus(LISTED, "1"), total) == [15360 * 2**20]
    assert read_sizes(read_gpus(LISTED, "MIG-67"), total) == [40 * 10**9]
    assert read_sizes(read_gpus(LISTED, "0,1"), total) == [10 * 10**9, 15360 * 2**20]
    assert read_sizes(read_gpus(LISTED.replace("  MIG", "#"), "0"), total) == [81559 * 2**20]
    assert read_sizes(read_gpus(LISTED, "1"), {"GPU-22222222-0000-0000-0000-000000000000": "[N/A]"}) == []


def test_gpus_multiply_bf16_from_ampere_on() -> None:
    gpus = read_gpus(LISTED, None)
    old, new = ({gpu.uuid: capability for gpu in gpus} for capability in ("7.5", "8.0"))
    assert read_bf16(gpus, old) is False
    assert read_bf16(gpus, new) is True
    assert read_bf16(gpus, new | {gpus[0].uuid: "12.0"}) is True
    assert read_bf16(gpus, new | {gpus[1].uuid: "7.5"}) is False
    assert read_bf16(gpus, {}) is None  # an older driver does not tell
    assert read_bf16(gpus, {gpu.uuid: "[N/A]" for gpu in gpus}) is None
