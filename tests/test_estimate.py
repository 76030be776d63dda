"""Memory and time by arithmetic: what fits, what does not, and what would."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import anatomies
from app.estimate import (
    Pace,
    Slot,
    as_size,
    count_data,
    count_threads,
    estimate_epoch,
    estimate_memory,
    explain_refusal,
    fits,
    is_for,
    largest_batch,
    read_slot,
)
from app.preflight import MOST_KEPT, explain_too_few, find_caution, judge, might_be_large
from ml.batches import evaluation_batch
from ml.catalog import MODELS
from ml.spec import RunSpec

PACE = Pace(convolution=20e9, thin=5e9, linear=40e9, output=1e9, call=20e-6)
SLOT = Slot("w", "h", "cpu", 24_000_000_000, 1, 2, PACE)
ALEXNET224: dict[str, Any] = {  # as tests/test_anatomy.py finds it, rounded
    "parameters": 57_000_000,
    "trainable": 57_000_000,
    "buffers": 6,
    "forward_flops": 1_420_000_000,
    "step_flops": 4_100_000_000,
    "convolution_flops": 3_800_000_000,
    "thin_flops": 400_000_000,
    "kept_bytes": 3_340_000,
    "largest_bytes": 774_400,
    "moved_bytes": 4_990_000,
    "layers": [{"name": "0", "kind": "Linear", "shape": [10], "parameters": 10}] * 22,
}


def spec_of(**fields: Any) -> RunSpec:
    return RunSpec(**{"model": "alexnet224", "dataset": "mnist", "precision": "fp32", **fields})


def test_the_parts_by_hand() -> None:
    spec = spec_of(optimizer="adamw", batch_size=64, train_size=1_000, val_size=1_000, device="cuda")
    memory = estimate_memory(spec, ALEXNET224, "cuda")
    assert memory.model == pytest.approx(4 * 4 * 57e6, rel=1e-3)  # weights, gradients and two moments
    assert memory.activations == 256 * 3 * 774_400  # evaluating takes more than training on 64
    assert memory.data == 2_000 * (784 + 8)
    large = estimate_memory(spec_of(batch_size=4_096, val_size=10), ALEXNET224, "cuda")
    assert large.activations == 4_096 * (3_340_000 + 2 * 774_400)
    assert memory.total == memory.model + memory.activations + memory.data + memory.process


@pytest.mark.parametrize(
    ("optimizer", "momentum", "numbers"), [("sgd", 0.0, 0), ("sgd", 0.9, 1), ("adam", 0.0, 2)]
)
def test_each_optimizer_has_its_state(optimizer: str, momentum: float, numbers: int) -> None:
    spec = spec_of(optimizer=optimizer, momentum=momentum)
    assert estimate_memory(spec, ALEXNET224, "cuda").model == pytest.approx(
        (2 + numbers) * 4 * 57e6, rel=1e-3
    )


def test_an_average_and_a_cpus_checkpoints_take_copies() -> None:
    plain, averaged = spec_of(), spec_of(ema=0.9)
    one = estimate_memory(plain, ALEXNET224, "cuda").model
    assert estimate_memory(averaged, ALEXNET224, "cuda").model == pytest.approx(one * 1.5, rel=1e-3)
    assert estimate_memory(plain, ALEXNET224, "cpu").model > one


def test_a_cpu_holds_the_whole_set_beside_what_was_chosen() -> None:
    spec = spec_of(train_size=1_000, val_size=500)
    assert count_data(spec, "cuda") == 1_500 * 792
    assert count_data(spec, "cpu") == 71_500 * 792


def test_half_the_digits_take_half_the_room() -> None:
    full = estimate_memory(spec_of(batch_size=2_048, val_size=1), ALEXNET224, "cpu").activations
    half = estimate_memory(
        spec_of(batch_size=2_048, val_size=1, precision="bf16"), ALEXNET224, "cpu"
    ).activations
    assert half < full


def test_a_batch_that_cannot_fit_is_refused_with_one_that_does() -> None:
    spec = spec_of(batch_size=16_384)
    assert not fits(spec, ALEXNET224, SLOT)
    said = explain_refusal(spec, ALEXNET224, SLOT)
    assert said.startswith("AlexNet-224 with batch size 16,384 needs about 8")
    assert said.endswith(" GB, and the largest slot has 24 GB: try batch size 4,096")
    assert fits(spec_of(batch_size=4_096), ALEXNET224, SLOT)


def test_a_model_that_never_fits_says_so() -> None:
    small = replace(SLOT, memory=1_000_000_000)
    assert largest_batch(spec_of(), ALEXNET224, small) is None
    assert "choose a smaller model or fewer images" in explain_refusal(spec_of(), ALEXNET224, small)


@given(st.integers(1, 65_536))
def test_what_is_suggested_fits_and_is_smaller(batch: int) -> None:
    spec = spec_of(batch_size=batch)
    found = largest_batch(spec, ALEXNET224, SLOT)
    if found is not None:
        assert found < batch
        assert fits(spec.model_copy(update={"batch_size": found}), ALEXNET224, SLOT)


@given(st.integers(1, 60_000), st.integers(1, 60_000))
def test_more_images_a_batch_need_more_memory(one: int, other: int) -> None:
    few, many = sorted((one, other))
    needs = [estimate_memory(spec_of(batch_size=b), ALEXNET224, "cuda").total for b in (few, many)]
    assert needs == sorted(needs)


def test_an_epoch_by_hand() -> None:
    spec = spec_of(train_size=6_000, val_size=3_000, batch_size=60)
    image = 3.4e9 / 20e9 + 0.4e9 / 5e9 + 0.3e9 / 40e9 + 4.99e6 / 1e9
    step = 22 * 20e-6 + 57e6 * 4 / 1e9
    assert estimate_epoch(spec, ALEXNET224, SLOT) == pytest.approx(7_000 * image + 100 * step)
    assert estimate_epoch(spec, ALEXNET224, replace(SLOT, pace=None)) is None
    assert seconds_of(SLOT, precision="bf16") < seconds_of(SLOT)


def seconds_of(slot: Slot, **fields: Any) -> float:
    found = estimate_epoch(spec_of(**fields), ALEXNET224, slot)
    assert found is not None
    return found


# -- hardware that multiplies bf16, or does not -----------------------------------------------------------------


def test_auto_is_bf16_only_where_the_hardware_multiplies_it() -> None:
    with_it, without = SLOT, replace(SLOT, bf16=False)
    assert seconds_of(with_it, precision="auto") == seconds_of(with_it, precision="bf16")
    assert seconds_of(without, precision="auto") == seconds_of(without, precision="fp32")
    assert seconds_of(without, precision="bf16") == seconds_of(without, precision="fp32")  # emulated
    large = {"batch_size": 2_048, "val_size": 1}
    needs = [
        estimate_memory(spec_of(precision=precision, **large), ALEXNET224, "cpu", bf16).activations
        for precision, bf16 in (("fp32", False), ("auto", False), ("auto", True), ("bf16", False))
    ]
    assert needs[0] == needs[1] > needs[2] == needs[3]
    assert not fits(spec_of(precision="auto", batch_size=5_000), ALEXNET224, without)
    assert fits(spec_of(precision="auto", batch_size=5_000), ALEXNET224, with_it)


# -- several devices ----------------------------------------------------------------------------------------------


def test_processes_on_a_cpu_share_its_memory() -> None:
    """Each has the model, the data and torch; one more is torchrun's agent."""
    large = {"batch_size": 4_096, "val_size": 10, "train_size": 1_000}
    one, two = (estimate_memory(spec_of(devices=n, **large), ALEXNET224, "cpu") for n in (1, 2))
    assert two.data == 2 * one.data
    assert two.activations == one.activations  # they share the batch
    weights = 4 * 57e6
    assert one.model == pytest.approx(3 * weights, rel=1e-3)  # weights, and two copies for a checkpoint
    assert two.model == pytest.approx(
        (3 + 1) * weights + 3 * weights, rel=1e-3
    )  # buckets; gradients of rank 1
    assert one.process == 800_000_000
    assert two.process == 3 * 500_000_000 + 300_000_000


def test_each_gpu_has_a_share_of_the_batch_and_the_whole_model() -> None:
    large = {"batch_size": 4_096, "val_size": 10}
    one, four = (estimate_memory(spec_of(devices=n, **large), ALEXNET224, "cuda") for n in (1, 4))
    assert four.activations == one.activations / 4
    assert four.model == pytest.approx(one.model * 1.5, rel=1e-3)  # buckets beside weights and gradients
    assert (four.data, four.process) == (one.data, one.process)


def test_time_knows_how_many_share_the_work() -> None:
    gpu = replace(SLOT, device="cuda", gpus=4)
    one, four = (seconds_of(gpu, devices=n, batch_size=512) for n in (1, 4))
    assert one / 4 < four < one  # one of them evaluates
    assert seconds_of(SLOT, devices=4) > seconds_of(SLOT, devices=1)  # one thread for all
    assert seconds_of(replace(SLOT, threads=8), devices=4) < seconds_of(SLOT, devices=4)
    assert [count_threads(spec_of(devices=n), replace(SLOT, threads=8)) for n in (1, 3, 16)] == [8, 2, 1]
    assert count_threads(spec_of(devices=3), gpu) == gpu.threads


def test_too_many_processes_are_refused_with_as_many_as_fit() -> None:
    spec = spec_of(devices=16, batch_size=64)
    small = replace(SLOT, memory=8_000_000_000)
    found = judge(spec, ALEXNET224, small, None)
    assert found.field == "devices"
    said = re.fullmatch(
        r"AlexNet-224 on 16 devices needs about \d+ GB, and the largest slot has 8.0 GB: try devices (\d+)",
        found.problem,
    )
    assert said, found.problem
    assert not judge(spec_of(devices=int(said[1]), batch_size=64), ALEXNET224, small, None).problem
    assert judge(spec_of(devices=int(said[1]) + 1, batch_size=64), ALEXNET224, small, None).problem
    assert might_be_large(spec, [small])
    assert not might_be_large(spec_of(devices=2, model="lenet"), [SLOT])


def test_a_run_that_wants_more_gpus_than_there_are_is_none_for_that_slot() -> None:
    gpu = replace(SLOT, device="cuda", gpus=2)
    assert [is_for(spec_of(devices=n), gpu) for n in (1, 2, 3)] == [True, True, False]
    assert is_for(spec_of(devices=3), SLOT)


def test_evaluations_batches_are_sized_by_the_work_on_a_gpu_too() -> None:
    sizes = [evaluation_batch(flops, "cuda") for flops in (0, 800_000, 3_600_000_000, 10**12)]
    assert sizes == [2048, 2048, 128, 32]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 MB"),
        (180_400_000, "180 MB"),
        (999_600_000, "1.0 GB"),
        (1.24e9, "1.2 GB"),
        (9.96e9, "10 GB"),
        (38.2e9, "38 GB"),
    ],
)
def test_sizes_as_people_write_them(nbytes: float, text: str) -> None:
    assert as_size(nbytes) == text


def test_a_slot_is_what_its_worker_says() -> None:
    assert read_slot("w", "h", 2, 0, {}) is None
    told = {"device": "cpu", "memory": 5, "threads": 1}
    assert read_slot("w", "h", 2, 0, told) == Slot("w", "h", "cpu", 5, 1, 2, None)
    assert read_slot("w", "h", 2, 0, {**told, "pace": None}) == Slot("w", "h", "cpu", 5, 1, 2, None)
    assert read_slot("w", "h", 2, 0, {**told, "pace": vars(PACE)}) == Slot("w", "h", "cpu", 5, 1, 2, PACE)
    more = {"bf16": False, "inductor_lacks": "a C++ compiler (g++)"}
    found = read_slot("w", "h", 2, 3, {**told, **more})
    assert found == Slot("w", "h", "cpu", 5, 1, 2, None, 3, False, "a C++ compiler (g++)")
    assert [is_for(spec_of(device=device), SLOT) for device in ("auto", "cpu", "cuda")] == [True, True, False]


def test_more_than_a_share_of_the_hosts_memory_is_told_but_not_refused() -> None:
    spec = spec_of(batch_size=4_096)
    found = judge(spec, ALEXNET224, SLOT, None)
    assert not found.problem
    assert found.caution == find_caution(SLOT, estimate_memory(spec, ALEXNET224, "cpu")) != ""
    assert judge(spec, ALEXNET224, replace(SLOT, slots=1), None).caution == ""


def test_gpus_that_would_stay_idle_are_told() -> None:
    few = explain_too_few(spec_of(devices=4), 2)
    assert "no worker has 4 GPUs for one run" in few
    assert few.endswith("try devices 2")
    for spec, gpus in ((spec_of(devices=4), 0), (spec_of(devices=4), 4), (spec_of(), 2)):
        assert explain_too_few(spec, gpus) == ""
    for device in ("cpu", "cuda"):  # said outright: the one is meant, the other waits
        assert explain_too_few(spec_of(devices=4, device=device), 2) == ""
    assert judge(spec_of(devices=4), ALEXNET224, None, None, 2).caution == few
    assert judge(spec_of(devices=4, batch_size=64), ALEXNET224, SLOT, None, 2).caution == few


def test_without_a_slot_nothing_is_refused() -> None:
    found = judge(spec_of(batch_size=65_536), ALEXNET224, None, None)
    assert (found.problem, found.epoch_s, found.source) == ("", None, None)
    assert found.memory is not None


def test_what_a_worker_refuses_is_a_problem_of_the_model() -> None:
    found = judge(spec_of(), {"error": "the images do not fit"}, SLOT, None)
    assert (found.problem, found.field) == ("the images do not fit", "model")


def test_small_specs_need_no_question_before_they_queue() -> None:
    for model in ("lenet", "mlp", "alexnet", "resnet8", "resnet18"):
        assert not might_be_large(spec_of(model=model, batch_size=64), [SLOT]), model
    assert might_be_large(spec_of(batch_size=4_096), [SLOT])
    assert not might_be_large(spec_of(batch_size=4_096), [])
    assert not might_be_large(spec_of(batch_size=4_096, device="cuda"), [SLOT])


@pytest.mark.parametrize("name", MODELS)
def test_the_bound_on_what_is_kept_holds_for_every_model(name: str) -> None:
    """Without it a spec that cannot run might queue unasked."""
    from worker.anatomist import answer

    spec = RunSpec(model=name, dataset="mnist")
    found = answer(anatomies.question_of(spec))
    assert found is not None
    side = spec.model_options.get("image_size", 28)
    assert found["kept_bytes"] + 2 * found["largest_bytes"] <= MOST_KEPT * side * side
