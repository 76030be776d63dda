"""What "auto" comes to, that a run keeps it, and which choices leave the bits alone."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ml import numerics
from ml.catalog import MODELS
from ml.events import Points, Prepared, Snapshot
from ml.numerics import BEFORE, allow_tf32, choose, keep, what_is_missing
from ml.precision import TABLE, share_precision
from ml.setup import make_optimizer, prepare
from ml.spec import RunSpec
from ml.train import train
from tests.bits import assert_same_bits
from tests.test_train import CPU, SGD, collect, digits, last_state, series, spec_of

CUDA = torch.device("cuda")  # none is needed to choose


@pytest.fixture
def bf16_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "multiplies_bf16", lambda device: True)


@pytest.fixture
def plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "multiplies_bf16", lambda device: False)


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_auto_follows_the_table(bf16_machine: None, device: torch.device) -> None:
    for model in MODELS:
        chosen = choose(RunSpec(model=model), device)
        wanted = "fp32" if model in ("lenet", "mlp") else "bf16"
        assert (chosen.precision, chosen.channels_last, chosen.compile) == (
            wanted,
            wanted == "bf16",
            "off",
        ), model


def test_auto_is_fp32_where_bf16_would_be_emulated(plain_machine: None) -> None:
    assert {choose(RunSpec(model=model), CPU).precision for model in MODELS} == {"fp32"}
    assert choose(RunSpec(precision="bf16"), CPU).precision == "bf16"  # who asks for it gets it


def test_auto_fuses_where_no_bit_changes(bf16_machine: None) -> None:
    def fused(**fields: Any) -> bool:
        return choose(RunSpec(**fields), CPU).fused

    assert fused(momentum=0.0)
    assert not fused(momentum=0.9)
    assert not fused(optimizer="adamw")
    assert fused(model="resnet8", momentum=0.9)
    assert not fused(model="resnet8", momentum=0.9, fused="off")
    assert fused(optimizer="adamw", fused="on")


def test_fused_is_what_is_done(plain_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Muon has no fused form, and a graph has no other."""

    def fused(**fields: Any) -> tuple[bool, bool | None]:
        spec = RunSpec(**fields)
        chosen = choose(spec, CUDA)
        optimizer = make_optimizer(spec, nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), chosen)
        return chosen.fused, optimizer.param_groups[0].get("fused")

    assert fused(compile="graph", momentum=0.9, fused="off") == (True, True)
    assert fused(compile="graph", optimizer="adamw", fused="off") == (True, True)
    assert fused(compile="off", momentum=0.9, fused="off") == (False, None)
    monkeypatch.setattr(numerics, "multiplies_bf16", lambda device: True)
    assert fused(model="resnet8", momentum=0.9) == (True, True)
    assert fused(model="resnet8", optimizer="muon", momentum=0.9) == (False, None)


def test_deterministic_is_on_unless_it_is_not_wanted() -> None:
    found = {
        asked: choose(RunSpec(deterministic=asked), CPU).deterministic for asked in ("auto", "on", "off")
    }
    assert found == {"auto": True, "on": True, "off": False}


def test_fused_plain_sgd_has_the_bits_of_the_plain_loop() -> None:
    one, other = (
        collect(spec_of(lr=0.05, model_options={"activation": "relu"}, fused=fused))
        for fused in ("on", "off")
    )
    assert series(one, "train/loss") == series(other, "train/loss")
    assert_same_bits(last_state(one)["model"], last_state(other)["model"])


def test_what_was_chosen_is_among_the_resolved_facts(bf16_machine: None) -> None:
    prepared = next(train(spec_of(model="resnet8"), digits(), device=CPU))
    assert isinstance(prepared, Prepared)
    facts = {
        "precision": "bf16",
        "channels_last": True,
        "fused": True,
        "compile": "off",
        "deterministic": True,
    }
    assert prepared.resolved.items() >= facts.items()


def test_a_resumed_run_keeps_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "multiplies_bf16", lambda device: True)
    spec = spec_of(model="resnet8", train_size=8, val_size=4, batch_size=4, **SGD)
    whole = collect(spec)
    first = next(e for e in whole if isinstance(e, Snapshot))
    monkeypatch.setattr(numerics, "multiplies_bf16", lambda device: False)  # another machine
    again = collect(spec, resume=first.state)
    assert isinstance(again[0], Prepared)
    assert (again[0].resolved["precision"], again[0].note) == ("bf16", None)
    assert_same_bits(last_state(again), last_state(whole))


def test_a_checkpoint_from_before_means_what_it_did(bf16_machine: None) -> None:
    auto, bf16 = RunSpec(model="resnet8"), RunSpec(model="lenet", precision="bf16")
    assert keep({}, auto, CPU) == (BEFORE, None)
    assert keep({}, bf16, CPU) == (replace(BEFORE, precision="bf16", channels_last=True), None)


def test_what_another_machine_cannot_do_is_said() -> None:
    state = {"numerics": replace(BEFORE, compile="graph").facts()}
    kept, note = keep(state, RunSpec(), CPU)
    assert kept == BEFORE
    assert (
        note
        == "goes on without compile graph, as CUDA graphs need a GPU; last digits may differ from here on"
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_that_a_gpu_recorded_goes_on_without_one(optimizer: str) -> None:
    """Its checkpoint holds what a graph needs: the rate as a tensor, and an optimizer that can be captured."""
    spec = spec_of(model="mlp", optimizer=optimizer, lr=0.01, fused="on", schedule="cosine")
    whole = collect(spec)
    first = next(e for e in whole if isinstance(e, Snapshot))
    first.state["numerics"] |= {"compile": "graph"}
    for group in first.state["optimizer"]["param_groups"]:
        group["lr"] = torch.tensor(group["lr"])
        group |= {"capturable": True} if "capturable" in group else {}
    again = collect(spec, resume=first.state)
    assert isinstance(again[0], Prepared)
    assert again[0].note is not None
    assert again[0].note.startswith("goes on without compile graph")
    losses, wanted = series(again, "train/loss"), series(whole, "train/loss")
    assert len(losses) == len(wanted) // 2
    assert losses == pytest.approx({step: wanted[step] for step in losses}, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "device", "words"),
    [
        ({"compile": "graph"}, CPU, "compile graph: CUDA graphs need a GPU. Choose auto or off."),
        # Refused before they queue (tests/test_spec.py); these were stored before that.
        ({"compile": "graph", "optimizer": "muon"}, CUDA, "Muon cannot be recorded"),
        ({"compile": "graph", "on_nan": "continue"}, CUDA, "cannot skip an update"),
        ({"compile": "graph", "devices": 2}, CUDA, "waits for other GPUs"),
    ],
)
def test_a_compilation_that_cannot_be_had_is_refused(
    fields: dict[str, Any], device: torch.device, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        choose(RunSpec.read_stored(fields), device)


@pytest.mark.parametrize(("device", "variable", "language"), [(CPU, "CXX", "C++"), (CUDA, "CC", "C")])
def test_inductor_needs_a_compiler(
    device: torch.device, variable: str, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "no-such-compiler")
    words = (
        f"compile inductor: this worker has no {language} compiler (no-such-compiler). Choose auto or off."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        choose(RunSpec(compile="inductor"), device)


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_inductor_needs_the_headers_of_python(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "true")  # a program that is everywhere
    monkeypatch.setenv("CC", "true")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert what_is_missing("inductor", RunSpec(), device) == f"this worker has no Python.h in {tmp_path}"
    (tmp_path / "Python.h").touch()
    assert what_is_missing("inductor", RunSpec(), device) is None


@pytest.mark.slow
def test_inductor_trains_as_eager_does() -> None:
    """Where there is what it needs; elsewhere it says what is missing."""
    spec = spec_of(model="mlp", model_options={"layers": 1, "width": 8}, train_size=64, epochs=1, lr=0.1)
    compiled = spec.model_copy(update={"compile": "inductor"})
    if (missing := what_is_missing("inductor", spec, CPU)) is not None:
        with pytest.raises(ValueError, match=re.escape(missing)):
            collect(compiled)
        return
    events = collect(compiled.model_copy(update={"epochs": 2}))
    plain = collect(spec.model_copy(update={"epochs": 2}))
    assert series(events, "train/loss") == pytest.approx(series(plain, "train/loss"), rel=1e-4)
    first = next(e for e in events if isinstance(e, Snapshot))
    again = collect(compiled.model_copy(update={"epochs": 2}), resume=first.state)
    assert_same_bits(last_state(again), last_state(events))


def test_every_model_has_its_entry_with_a_reason() -> None:
    assert set(TABLE) == set(MODELS)
    assert all(len(entry.why) > 10 for entry in TABLE.values())


def test_runs_that_will_be_compared_share_their_precision() -> None:
    lenet, resnet, asked = RunSpec(), RunSpec(model="resnet8"), RunSpec(model="resnet8", precision="bf16")
    assert [s.precision for s in share_precision([lenet, resnet])] == ["fp32", "fp32"]
    assert [s.precision for s in share_precision([resnet, resnet])] == ["auto", "auto"]
    assert [s.precision for s in share_precision([lenet, asked])] == ["fp32", "bf16"]


def test_a_gpus_numbers_come_a_report_later() -> None:
    """Only the order is tested here: no GPU has run it."""
    from ml.tally import Tally

    tally = Tally(CUDA, report_every_s=0)
    tally.add(1, torch.tensor([2.0, 0.5]), 0.1)
    assert [p.step for p in tally.report(whole=False) if isinstance(p, Points)] == [
        [1]
    ]  # the first is shown at once
    tally.add(2, torch.tensor([1.0, 0.5]), 0.1)
    assert [p.step for p in tally.report() if isinstance(p, Points)] == [[2]]


# -- switches of a GPU ------------------------------------------------------------------------------------------------


@pytest.fixture
def tf32_switches() -> Iterator[None]:
    matrices, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(matrices)
    torch.backends.cudnn.allow_tf32 = convolutions


def test_whoever_reads_the_switches_of_tf32_is_told_the_same(tf32_switches: None) -> None:
    """PyTorch has two sets of them, and raises where they disagree."""
    for allowed in (True, False, True, False):
        allow_tf32(allowed)
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
        newer = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
        assert [one.fp32_precision == "tf32" for one in newer] == [allowed, allowed]


def test_the_gpu_of_the_run_is_the_current_one_before_anything_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the order is tested here: no GPU has run it."""

    def take(device: torch.device) -> None:
        raise InterruptedError(str(device))

    monkeypatch.setattr(torch.cuda, "set_device", take)
    with pytest.raises(InterruptedError, match="cuda:1"):
        prepare(RunSpec(), digits(), torch.device("cuda", 1))
