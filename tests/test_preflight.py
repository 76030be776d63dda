"""The pre-flight with real workers: what it answers, what it refuses, and what the form shows of it."""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from app import anatomies, epochs, runs, series, workers
from app.anatomies import KEPT, RETAKE_S
from app.db import Database, now
from app.epochs import measure_epoch
from app.errors import Invalid, Unavailable
from app.models import FINISHED, Anatomy
from app.preflight import check, refuse_impossible
from app.runs import NewRun
from ml.catalog import MODELS
from ml.spec import RunSpec
from tests import processes
from tests.processes import Stack, Web, wait_for
from trainyard import Client
from worker.capacity import count_host_memory, describe_slot, multiplies_bf16, what_is_missing

Json = dict[str, Any]
LENET: Json = {"model": "lenet", "dataset": "digits"}
FOUND: Json = {
    "parameters": 44_426, "trainable": 44_426, "buffers": 0, "forward_flops": 10, "step_flops": 30,
    "convolution_flops": 20, "thin_flops": 5, "kept_bytes": 10, "largest_bytes": 5, "moved_bytes": 10, "layers": [],
}  # fmt: skip


# -- the table of questions and answers -----------------------------------------------------------------------------


def question(i: int = 0) -> anatomies.Question:
    return anatomies.question_of(RunSpec(**LENET)) | {"classes": 10 + i}


def test_a_question_is_asked_once_taken_once_and_answered(db: Database) -> None:
    with db.begin() as s:
        anatomies.ask(s, question())
        anatomies.ask(s, question())
        assert anatomies.is_anything_asked(s)
    with db.begin() as s:
        assert anatomies.take_question(s) == question()
    with db.begin() as s:
        assert anatomies.take_question(s) is None  # another worker is on it
        assert anatomies.read_answer(s, question()) is None
        anatomies.answer(s, question(), FOUND)
    with db.begin() as s:
        assert anatomies.read_answer(s, question()) == FOUND
        anatomies.ask(s, question())
        assert not anatomies.is_anything_asked(s)
        anatomies.forget_answers(s)
    with db.read() as s:
        assert anatomies.read_answer(s, question()) is None


def test_a_question_whose_worker_died_is_taken_again(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with db.begin() as s:
        anatomies.ask(s, question())
        assert anatomies.take_question(s) is not None
    monkeypatch.setattr("app.anatomies.now", lambda s: now(s) + RETAKE_S + 1)
    with db.begin() as s:
        assert anatomies.take_question(s) == question()


def test_old_answers_are_forgotten(db: Database) -> None:
    with db.begin() as s:
        for i in range(KEPT + 5):
            anatomies.ask(s, question(i))
    with db.read() as s:
        assert s.get(Anatomy, anatomies.key_of(question(4))) is None
        assert s.get(Anatomy, anatomies.key_of(question(5))) is not None


def test_the_question_has_all_that_matters_and_no_more() -> None:
    one = anatomies.question_of(RunSpec(**LENET))
    assert one == anatomies.question_of(RunSpec(**LENET, batch_size=7, lr=0.5, epochs=9, seed=4))
    assert one != anatomies.question_of(RunSpec(**LENET, model_options={"pooling": "avg"}))
    assert one["shape"] == [1, 28, 28]


# -- how long it took others ----------------------------------------------------------------------------------------


def finished(db: Database, epoch_s: float, threads: int = 1, **fields: Any) -> None:
    """A run of two epochs that took `epoch_s` each, and half a minute to load."""
    spec = RunSpec(**{**LENET, "epochs": 2, **fields})
    with db.begin() as s:
        run, _ = runs.create_run(s, NewRun(spec), max_queued=100)
        claimed = runs.claim_run(s, run.id, "w", 20)
        assert claimed is not None
        at, steps = claimed.started_at or 0.0, spec.steps_per_epoch
        ends = [at + 30 + epoch_s * epoch for epoch in (1, 2)]
        points = {
            "train/loss": series.make_block([1, steps * 2], [at + 30, ends[-1]], [2.0, 1.0]),
            "val/accuracy": series.make_block([steps, steps * 2], ends, [0.1, 0.9]),
        }
        resolved = {"device": "cpu", "threads": threads}
        runs.report(s, run.id, 1, 1, points, lease_s=20, resolved=resolved)
        runs.end_run(s, run.id, 1, FINISHED, "w", "trained to the end")


def test_an_epoch_takes_what_it_took(db: Database) -> None:
    with db.read() as s:
        assert measure_epoch(s, RunSpec(**LENET), "cpu", 1) is None
    for epoch_s in (2.0, 3.0, 10.0):
        finished(db, epoch_s)
    finished(db, 100.0, threads=2)
    finished(db, 100.0, batch_size=8)
    finished(db, 100.0, model_options={"pooling": "avg"})
    with db.read() as s:
        assert measure_epoch(s, RunSpec(**LENET), "cpu", 1) == pytest.approx((3.0, 3))
        assert measure_epoch(s, RunSpec(**LENET, lr=0.5, epochs=50), "cpu", 1) == pytest.approx((3.0, 3))
        assert measure_epoch(s, RunSpec(**LENET), "cuda", 1) is None


def test_fewer_images_take_less(db: Database) -> None:
    finished(db, 4.0, train_size=1_000, val_size=300)
    with db.read() as s:
        found = measure_epoch(s, RunSpec(**LENET, train_size=450, val_size=300), "cpu", 1)
    assert found == pytest.approx((4.0 * 550 / 1_100, 1))


def test_enough_runs_are_enough(db: Database) -> None:
    for _ in range(epochs.ENOUGH + 2):
        finished(db, 2.0)
    with db.read() as s:
        assert measure_epoch(s, RunSpec(**LENET), "cpu", 1) == pytest.approx((2.0, epochs.ENOUGH))


# -- without a worker -----------------------------------------------------------------------------------------------


def test_without_a_worker_it_says_what_to_do(db: Database) -> None:
    with pytest.raises(Unavailable, match="start one with `trainyard worker`"):
        check(db, RunSpec(**LENET))


def test_a_known_network_needs_no_worker(db: Database) -> None:
    with db.begin() as s:
        anatomies.ask(s, question())
        anatomies.answer(s, question(), FOUND)
    found = check(db, RunSpec(**LENET, epochs=7))
    assert found.anatomy["parameters"] == 44_426
    assert (found.slot, found.epoch_s, found.problem) == (None, None, "")


def test_a_worker_that_does_not_answer_is_waited_for_so_long_and_no_longer(db: Database) -> None:
    with db.begin() as s:
        workers.say_present(s, "w", 1, ["CPU"], [])
    with pytest.raises(Unavailable, match="try again in a moment"):
        check(db, RunSpec(**LENET), wait_s=0.3)
    with db.read() as s:
        assert anatomies.is_anything_asked(s)


def test_the_memory_is_the_machines_or_the_containers(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("3000000\n")
    (tmp_path / "none").write_text("max\n")
    machine = count_host_memory([])
    assert machine > 500_000_000
    assert count_host_memory([str(tmp_path / "limit")]) == 3_000_000
    assert count_host_memory([str(tmp_path / "none"), str(tmp_path / "nowhere")]) == machine


def test_a_slot_without_a_gpu_says_what_its_trainers_will_find(tmp_path: Path) -> None:
    """By other means than ml.numerics, as the worker has no torch: both must come to the same."""
    from ml import numerics

    cpu = torch.device("cpu")
    assert describe_slot([], 3) == {
        "device": "cpu",
        "memory": count_host_memory(),
        "threads": 3,
        "bf16": numerics.multiplies_bf16(cpu),
        "inductor_lacks": what_is_missing("cpu"),
    }
    for device in ("cpu", "cuda"):
        there = numerics.what_is_missing("inductor", RunSpec(), torch.device(device)) is None
        assert (what_is_missing(device) == "") == there
        assert what_is_missing(device, str(tmp_path)).startswith(("Python.h in ", "a C"))


@pytest.mark.parametrize(
    ("flags", "multiplies"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16 amx_tile", True), ("fpu avx512f avx512_bf16x", False)],
)
def test_a_processors_flags_say_whether_it_multiplies_bf16(
    tmp_path: Path, flags: str, multiplies: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert multiplies_bf16(str(tmp_path / "cpuinfo")) is multiplies
    assert multiplies_bf16(str(tmp_path / "nowhere")) is False


def present(db: Database, name: str, **capacity: Any) -> None:
    """A worker with a slot on the CPU."""
    told = {"device": "cpu", "memory": 24 * 10**9, "threads": 1, "pace": None}
    with db.begin() as s:
        workers.say_present(s, name, 1, ["CPU"], []).capacity = told | capacity


def test_a_run_that_no_worker_can_compile_is_refused_before_it_queues(db: Database) -> None:
    plain, compiled = RunSpec(**LENET), RunSpec(**LENET, compile="inductor")
    refuse_impossible(db, [compiled])  # nobody is here who could know
    present(db, "bare", inductor_lacks="a C++ compiler (g++)")
    refuse_impossible(db, [plain])
    with pytest.raises(Invalid) as refused:
        refuse_impossible(db, [plain, compiled])
    assert refused.value.field == "spec.compile"
    assert refused.value.message == (
        "compile inductor needs a C++ compiler (g++), which no worker here has: choose auto or off"
    )
    with db.begin() as s:
        anatomies.ask(s, question())
        anatomies.answer(s, question(), FOUND)
    found = check(db, compiled)
    assert (found.problem, found.field) == (refused.value.message, "compile")
    present(db, "old", memory=1 * 10**9)  # smaller, and too old to say what it lacks
    refuse_impossible(db, [compiled])
    assert check(db, compiled).problem == ""


def test_a_run_for_more_gpus_than_a_worker_has_is_told_that_it_would_use_none(db: Database) -> None:
    with db.begin() as s:
        workers.say_present(s, "lab", 2, ["GPU", "GPU"], [], gpus=2).capacity = {
            "device": "cuda", "memory": 80 * 10**9, "threads": 4, "pace": None,
        }  # fmt: skip
        anatomies.ask(s, question())
        anatomies.answer(s, question(), FOUND)
    assert check(db, RunSpec(**LENET, devices=2)).caution == ""
    few = check(db, RunSpec(**LENET, devices=4))
    assert few.caution.endswith("try devices 2")
    assert few.slot is None
    present(db, "bare")
    assert check(db, RunSpec(**LENET, devices=4)).caution == few.caution


# -- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A web process without a worker."""
    directory = tmp_path_factory.mktemp("alone")
    with processes.redis_server(directory) as redis:
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        processes.migrate(env)
        with processes.web_process(env, directory=directory) as web:
            yield web


@pytest.fixture(scope="module")
def manned(stack: Stack) -> Stack:
    """The stack once its worker has said that it is here."""
    with stack.http as http:
        processes.wait_for(lambda: bool(http.get("/api/v1/workers").json()["workers"]), "the worker", 60)
    return stack


def preflight(url: str, **spec: Any) -> httpx.Response:
    """The answer; asked again, as it says, where a worker on a busy machine was not in time."""
    deadline = time.monotonic() + 90
    while True:
        answer = httpx.post(f"{url}/api/v1/preflight", json={"spec": spec}, timeout=30, trust_env=False)
        if "in a moment" not in answer.text or time.monotonic() > deadline:
            return answer


@pytest.mark.slow
def test_without_a_worker_the_answer_is_503_with_the_remedy(alone: Web) -> None:
    answer = preflight(alone.url, **LENET)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "unavailable"
    assert "trainyard worker" in answer.json()["error"]["message"]


@pytest.mark.slow
def test_without_a_worker_a_run_queues_however_large(alone: Web) -> None:
    spec = {"model": "alexnet224", "dataset": "digits", "batch_size": 65_536}
    answer = httpx.post(f"{alone.url}/api/v1/runs", json={"spec": spec}, timeout=30, trust_env=False)
    assert answer.status_code == 201


@pytest.mark.slow
def test_a_worker_tells_what_a_network_is(manned: Stack) -> None:

    def timed() -> Json | None:
        """A busy machine may not have timed its slot when it answers first."""
        answer = preflight(manned.url, **LENET, train_size=500, val_size=100)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found if found["time"]["source"] else None

    found = wait_for(timed, "an answer with its time", 60)
    assert (found["fits"], found["problem"], found["field"]) == (True, None, None)
    assert found["parameters"] == found["trainable"] == MODELS["lenet"].parameters
    assert found["layers"][0] == {
        "name": "conv1",
        "kind": "Conv2d 5x5",
        "shape": [6, 24, 24],
        "parameters": 156,
    }
    memory = found["memory"]
    assert memory["total"] == memory["model"] + memory["activations"] + memory["data"] + memory["process"]
    assert 300e6 < memory["total"] < 2e9
    assert found["slot"]["device"] == "cpu"
    assert found["slot"]["memory"] == count_host_memory()
    assert found["time"]["source"] in ("estimate", "runs")  # other tests may have trained some here
    assert 0.001 < found["time"]["epoch_s"] < 600
    assert found["time"]["run_s"] == pytest.approx(3 * found["time"]["epoch_s"])


@pytest.mark.slow
def test_client_and_terminal_tell_the_same(manned: Stack) -> None:
    preflight(manned.url, **LENET)
    with Client(manned.url) as client:
        found = client.preflight(LENET, batch_size=32)
    assert (found["fits"], found["parameters"]) == (True, 44_426)
    command = [sys.executable, "-m", "trainyard", "preflight", "--url", manned.url, "--dataset", "digits"]
    told = processes.run_command([*command, "--batch-size", "32"])
    assert told.returncode == 0, told.stderr
    assert "44,426 parameters" in told.stdout
    assert " an epoch, " in told.stdout
    assert re.search(r"^conv1 +Conv2d 5x5 +6x24x24 +156$", told.stdout, re.MULTILINE), told.stdout
    told = processes.run_command(
        [*command, "--model", "resnet50", "--batch-size", "60000", "--precision", "fp32"]
    )
    assert told.returncode == 1
    assert "Cannot run here: ResNet-50 with batch size 60,000 needs about" in told.stdout


@pytest.mark.slow
def test_it_is_quick_once_the_network_is_known(manned: Stack) -> None:
    preflight(manned.url, **LENET)
    for batch in (16, 32, 64, 128):
        answer = preflight(manned.url, **LENET, batch_size=batch)
        assert answer.status_code == 200
        assert answer.elapsed.total_seconds() < 5  # some milliseconds, on a machine that is not busy


@pytest.mark.slow
def test_a_spec_that_does_not_hold_names_its_field(manned: Stack) -> None:
    answer = preflight(manned.url, **LENET, lr=99)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "spec.lr"


@pytest.mark.slow
def test_a_batch_without_room_is_refused_before_it_queues(manned: Stack) -> None:
    spec = {"model": "resnet50", "dataset": "mnist", "batch_size": 60_000, "precision": "fp32"}
    found = preflight(manned.url, **spec).json()
    assert found["fits"] is False
    assert found["field"] == "batch_size"
    gb = r"[\d.]+ GB"
    words = (
        f"ResNet-50 with batch size 60,000 needs about {gb}, and the largest slot has {gb}: try batch size "
    )
    said = re.fullmatch(words + r"([\d,]+)", found["problem"])
    assert said, found["problem"]
    with manned.http as http:
        before = http.get("/api/v1/runs", params={"model": "resnet50"}).json()["runs"]
        refused = http.post("/api/v1/runs", json={"spec": spec})
        assert refused.status_code == 422
        assert refused.json()["error"] == {
            "code": "invalid",
            "message": found["problem"],
            "field": "spec.batch_size",
        }
        many = {"name": "too large", "spec": spec, "vary": {"seed": [0, 1]}}
        assert http.post("/api/v1/experiments", json=many).status_code == 422
        assert http.get("/api/v1/runs", params={"model": "resnet50"}).json()["runs"] == before
    smaller = {**spec, "batch_size": int(said[1].replace(",", ""))}
    assert preflight(manned.url, **smaller).json()["fits"] is True


@pytest.mark.slow
def test_the_worker_says_what_its_slots_have(manned: Stack) -> None:
    preflight(manned.url, **LENET)
    with closing(sqlite3.connect(manned.directory / "trainyard.db")) as s:
        (told,) = s.execute("SELECT capacity FROM worker").fetchone()
    assert '"pace"' in told


# -- on the form ----------------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
    yield opened
    context.close()
    assert [trouble for trouble in troubles if "Failed to load resource" not in trouble] == []


@pytest.mark.slow
def test_the_form_says_what_the_run_needs_as_one_types(page: Page, manned: Stack) -> None:
    page.goto(f"{manned.url}/new?model=lenet&dataset=digits")
    line, layers = page.locator("[data-preflight=line]"), page.locator("[data-preflight=layers]")
    expect(line).to_contain_text("44,426 parameters", timeout=60_000)
    expect(line).to_contain_text(re.compile(r"\d s per epoch.*~[\d.]+ [MG]B of memory"))
    expect(layers).to_be_visible()
    layers.locator("summary").click()
    expect(layers.get_by_role("row")).to_have_count(13)
    page.get_by_label("Model", exact=True).select_option("mlp")
    top = page.evaluate("scrollY")
    expect(line).to_contain_text("269,322 parameters", timeout=60_000)
    expect(layers).to_have_attribute("open", "")  # what was opened stays so
    assert page.evaluate("scrollY") == top
    page.get_by_label("Batch size").fill("0")
    expect(line).to_have_text("")


@pytest.mark.slow
def test_a_refusal_stands_at_its_field_with_all_that_was_typed(page: Page, manned: Stack) -> None:
    page.goto(f"{manned.url}/new?model=resnet50&dataset=mnist&batch_size=60000&precision=fp32&name=Huge")
    problem = page.locator(".preflight-problem")
    expect(problem).to_contain_text("try batch size", timeout=60_000)
    page.get_by_label("Name", exact=True).fill("Huge")
    page.get_by_role("button", name="Start training").click()
    field = page.locator(".field", has=page.get_by_label("Batch size"))
    expect(field.locator(".field-error")).to_contain_text("try batch size", timeout=60_000)
    expect(page.get_by_label("Name", exact=True)).to_have_value("Huge")


@pytest.mark.slow
def test_without_a_worker_the_form_alarms_nobody(page: Page, alone: Web) -> None:
    with page.expect_response("**/new/preflight") as answered:
        page.goto(f"{alone.url}/new")
    assert answered.value.status == 200
    expect(page.locator("[data-preflight=line]")).to_have_text("")
    expect(page.locator("[data-preflight=layers]")).to_be_hidden()
    expect(page.get_by_role("button", name="Start training")).to_be_enabled()
