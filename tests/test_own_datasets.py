"""A data set of the operator's own, from the command to the comparison, on a real web process and real workers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.processes import run_command, wait_for
from tests.test_worker import Yard, a_yard

pytestmark = pytest.mark.slow

COLOURS = {"daisy": (250, 240, 10), "rose": (220, 10, 40), "tulip": (90, 20, 200)}
SPEC: dict[str, Any] = {
    "model": "resnet8", "dataset": "flowers", "epochs": 3, "batch_size": 16, "lr": 0.05, "momentum": 0.9,
    "shift": 2, "flip": True, "cutout": 4,
}  # fmt: skip


def photographs(folder: Path) -> Path:
    """Noisy pictures of one colour a class, not all of one size."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(30):
            pixels = np.clip(np.array(colour) + rng.normal(0, 40, (24 + i % 5, 28, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def points_in_corners(path: Path, seed: int) -> Path:
    """Two classes of grey pictures with a light corner."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 40, (80, 8, 8), np.uint8), np.arange(80) % 2
    images[labels == 1, :3, :3] = 250
    np.savez(path, X=images, y=labels)
    return path


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    directory = tmp_path_factory.mktemp("yard")
    with a_yard(directory, LEASE_S="3", DATASETS=str(directory / "datasets")) as made:
        yield made


def command(yard: Yard, *arguments: str, env: dict[str, str] | None = None, fails: bool = False) -> str:
    ended = run_command([sys.executable, "-m", "trainyard", *arguments], env=env or yard.env, within_s=120)
    assert bool(ended.returncode) is fails, ended.stderr
    return ended.stderr if fails else ended.stdout


def findings(yard: Yard, env: dict[str, str]) -> str:
    """What doctor says of the data sets."""
    code = (
        "from app.doctor.datasets import check_datasets; from app.settings import get_settings\n"
        "for one in check_datasets(get_settings()): print(one.level, one.found)"
    )
    ended = run_command([sys.executable, "-c", code], env=env)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_set_is_registered_chosen_trained_and_removed(yard: Yard, tmp_path: Path) -> None:
    source = photographs(tmp_path / "flowers")
    refusal = yard.http.post("/api/v1/runs", json={"spec": SPEC})
    assert refusal.status_code == 422
    assert "unknown dataset 'flowers'; choose one of digits" in refusal.json()["error"]["message"]
    said = command(
        yard, "dataset", "add", "flowers", str(source), "--size", "16", "--title", "Flowers of mine"
    )
    assert "72 training and 18 validation images, drawn by seed 0, 16x16 RGB, 3 classes" in said

    # Everyone knows it, without a restart.
    known = {row["name"]: row for row in yard.http.get("/api/v1/catalog").json()["datasets"]}["flowers"]
    assert known["available"]
    assert known["registered"]
    assert (known["shape"], known["class_names"]) == ([3, 16, 16], ["daisy", "rose", "tulip"])
    schema = yard.http.get("/openapi.json").json()["components"]["schemas"]["RunSpec"]["properties"]
    assert "flowers" in schema["dataset"]["enum"]
    form = yard.http.get("/new?dataset=flowers").text
    assert "Flowers of mine" in form
    assert "flowers" in command(yard, "dataset", "list")

    # A worker without it says so, and what to do; doctor knows it before.
    elsewhere = yard.env | {"TRAINYARD_DATASETS": str(tmp_path / "elsewhere")}
    bare = Yard(yard.http, elsewhere, yard.directory, "", yard.cleanup).add_worker()
    wait_for(lambda: yard.http.get("/api/v1/workers").json()["workers"], "the worker", 60)
    wait_for(lambda: "problem flowers is missing on" in findings(yard, yard.env), "doctor to see it", 120)
    run_id = yard.submit(**SPEC)
    run = yard.wait_state(run_id, "failed", "finished")
    assert run["state"] == "failed"
    assert "'flowers' is not registered on this host" in run["error"]
    assert "trainyard dataset add" in run["error"]
    bare.stop()

    yard.add_worker()
    yard.ask(run_id, "resume")
    run = yard.wait_state(run_id, "failed", "finished")
    assert run["state"] == "finished", run
    assert known["digest"].startswith(run["resolved"]["data_digest"])
    assert run["resolved"]["classes"] == 3
    assert run["summary"]["val/accuracy"]["max"] > 0.6  # colours are easy
    wait_for(lambda: "missing" not in findings(yard, yard.env), "the worker's report", 120)
    assert "ok flowers (72 + 18 images, registered" in findings(yard, yard.env)
    assert "Registered here: flowers" in yard.http.get("/workers").text

    # It filters, is varied, and its classes have their names.
    made = yard.http.post(
        "/api/v1/experiments",
        json={
            "name": "two",
            "spec": {**SPEC, "epochs": 1},
            "vary": {"dataset": ["flowers", "digits"], "seed": [1]},
        },
    )
    assert made.status_code == 201, made.text
    listed = yard.http.get("/api/v1/runs", params={"dataset": "flowers"}).json()["runs"]
    assert {row["spec"]["dataset"] for row in listed} == {"flowers"}
    assert len(listed) == 2
    assert "Flowers of mine" in yard.http.get("/?dataset=flowers").text
    assert "tulip" in yard.http.get(f"/wrong?run={run_id}").text
    sent = command(
        yard, "submit", "--dataset", "flowers", "--epochs", "1", "--url", str(yard.http.base_url), "--json"
    )
    assert json.loads(sent)["spec"]["dataset"] == "flowers"
    sized = yard.http.post("/api/v1/runs", json={"spec": {**SPEC, "train_size": 73}})
    assert "Flowers of mine has 72 images there" in sized.json()["error"]["message"]

    for row in yard.http.get("/api/v1/runs").json()["runs"]:
        yard.http.post(f"/api/v1/runs/{row['id']}/cancel")  # refused for those that have ended
        yard.wait_state(row["id"], "failed", "finished", "canceled")
    command(yard, "dataset", "remove", "flowers")
    assert source.is_dir()
    again = yard.http.post(f"/api/v1/runs/{run_id}/clone")
    assert again.status_code == 422, again.text
    assert "unknown dataset 'flowers'" in again.json()["error"]["message"]
    for page in (
        f"/runs/{run_id}",
        f"/wrong?run={run_id}",
        f"/compare?run={run_id}",
        "/",
        "/new?dataset=flowers",
    ):
        assert yard.http.get(page).status_code == 200, page


def test_other_content_under_the_same_name_is_no_fair_comparison(yard: Yard, tmp_path: Path) -> None:
    if not yard.workers:
        yard.add_worker()
    ids = []
    for seed, model in enumerate(("mlp", "resnet8")):
        source = points_in_corners(tmp_path / f"{seed}.npz", seed)
        command(yard, "dataset", "add", "corners", str(source))
        ids.append(yard.submit(model=model, dataset="corners", epochs=1, batch_size=16))
        assert yard.wait_state(ids[-1], "finished", "failed")["state"] == "finished"
        command(yard, "dataset", "remove", "corners")
    verdict = yard.http.get("/api/v1/compare", params={"run": ids}).json()["verdict"]
    assert verdict["kind"] == "confounded", verdict
    assert "data_digest" in {one["key"] for one in verdict["confounders"]}


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "/etc/passwd", "flowers\n", "a" * 65])
def test_a_spec_holds_no_path(yard: Yard, name: str) -> None:
    answer = yard.http.post("/api/v1/runs", json={"spec": {"dataset": name}})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "spec.dataset"


def test_the_command_refuses_with_one_line(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04")
    for arguments, words in (
        (("add", "../x", str(tmp_path / "a.npz")), "name: must be small letters"),
        (("add", "x", str(tmp_path / "a.npz")), "a.npz is no .npz file"),
        (("add", "x", str(tmp_path / "none")), "is not there"),
        (("add", "x", "/dev/null"), "is not there"),
        (("remove", "x"), "no data set 'x' is registered here"),
    ):
        said = command(yard, "dataset", *arguments, fails=True)
        assert said.startswith("trainyard: ")
        assert words in said
        assert said.count("\n") == 1
