"""`GET /api/v1/compare` over the real application, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app import runs as store
from app.chunks import make_block
from app.db import Database
from app.main import create_app
from app.runs import NewRun
from app.settings import Settings
from ml.spec import RunSpec
from tests.test_fairness import RESOLVED

Json = dict[str, Any]


@pytest.fixture
def application(db_url: str, tmp_path: Path) -> Iterator[FastAPI]:
    application = create_app(Settings(data_dir=tmp_path, database_url=db_url, port=80))
    yield application
    application.state.db.dispose()


class Api:
    """The routes of one application, and finished runs made through the store as a trainer does it."""

    def __init__(self, application: FastAPI) -> None:
        self.application = application
        self.db: Database = application.state.db

    def get(self, query: Sequence[tuple[str, str]]) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.get("/api/v1/compare", params=list(query))

        return asyncio.run(ask())

    def compare(self, *ids: str, **query: str) -> Json:
        response = self.get([*(("run", run_id) for run_id in ids), *query.items()])
        assert response.status_code == 200, response.text
        found: Json = response.json()
        return found

    def queue(self, **fields: Any) -> str:
        with self.db.begin() as s:
            spec = RunSpec.model_validate({"dataset": "digits"} | fields)
            return store.create_run(s, NewRun(spec), max_queued=1_000)[0].id

    def train(
        self, values: Mapping[str, Sequence[float]], resolved: Json | None = None, **fields: Any
    ) -> str:
        """A run whose series are `values`, one point an epoch; it finished."""
        run_id = self.queue(**fields)
        points = {
            name: make_block(range(1, len(column) + 1), [1e9] * len(column), column)
            for name, column in values.items()
        }
        with self.db.begin() as s:
            assert store.claim_run(s, run_id, "worker", 20) is not None
            known = RESOLVED | {"parameters": 1} | (resolved or {})
            store.report(s, run_id, 1, 1, points, lease_s=20, resolved=known)
            store.end_run(s, run_id, 1, "finished", "worker", "done")
        return run_id


@pytest.fixture
def api(application: FastAPI) -> Api:
    return Api(application)


LENET = [0.9862, 0.9875, 0.988, 0.987, 0.9871]
RESNET = [0.990, 0.992, 0.991, 0.9925, 0.9915]


def seeds(api: Api, model: str, values: Sequence[float], **more: Any) -> list[str]:
    """Each with a better epoch before its last."""
    return [
        api.train({"val/accuracy": [0.5, value + 0.001, value]}, model=model, seed=seed, **more)
        for seed, value in enumerate(values)
    ]


def test_a_controlled_comparison_with_seeds(api: Api) -> None:
    lenet, resnet = seeds(api, "lenet", LENET), seeds(api, "resnet18", RESNET)
    found = api.compare(*lenet, *resnet)

    assert [run["id"] for run in found["runs"]] == lenet + resnet
    assert found["verdict"]["kind"] == "controlled"
    assert found["verdict"]["text"] == "Controlled: only the model differs"
    assert (found["verdict"]["subject"], found["verdict"]["confounders"]) == (["model"], [])
    assert [field["field"] for field in found["differences"]] == ["model", "seed"]
    assert {field["field"] for field in found["partial"]} >= {
        "model_options.activation",
        "model_options.residual",
    }
    assert (found["same"]["lr"], found["same"]["train_size"], found["matched"]) == (0.01, None, [])

    told = found["statistics"]
    assert (told["metric"], told["at"], told["better"], told["unit"]) == (
        "val/accuracy",
        "last",
        "higher",
        "points",
    )
    assert told["text"].startswith("ResNet-18 is 0.42 points better than LeNet [")
    assert told["text"].endswith("], p = 0.008, n = 5 + 5.")
    assert [(group["label"], group["n"], group["seeds"]) for group in told["groups"]] == [
        ("LeNet", 5, [0, 1, 2, 3, 4]),
        ("ResNet-18", 5, [0, 1, 2, 3, 4]),
    ]
    (pair,) = told["pairs"]
    assert (pair["better"], pair["test"], pair["shown"]) == (1, "permutation", True)
    assert pair["tests"]["permutation"] == {"p": 2 / 252, "arrangements": 252, "exact": True}
    assert pair["interval"]["low"] < pair["difference"] < pair["interval"]["high"] < 0

    best = api.compare(*lenet, *resnet, at="best")["statistics"]
    assert best["groups"][0]["values"] == pytest.approx([value + 0.001 for value in LENET])


def test_a_confounded_pair_and_the_spec_that_would_match(api: Api) -> None:
    values = {"val/accuracy": [0.9]}
    first = api.train(values, model="lenet", batch_size=64, lr=0.01)
    second = api.train(values, model="resnet8", batch_size=256, lr=0.1)
    found = api.compare(first, second)

    assert found["verdict"]["text"] == "Confounded by batch size 64 → 256, learning rate 0.01 → 0.1"
    assert found["verdict"]["confounders"] == [
        {"key": "batch_size", "title": "Batch size", "values": {first: 64, second: 256}},
        {"key": "lr", "title": "Learning rate", "values": {first: 0.01, second: 0.1}},
    ]
    (matched,) = found["matched"]
    assert (matched["run"], matched["reference"]) == (second, first)
    assert matched["spec"] == RunSpec(dataset="digits", model="resnet8").model_dump()
    assert matched["changes"]["lr"] == {"from": 0.1, "to": 0.01}

    (turned,) = api.compare(first, second, baseline=second)["matched"]
    assert (turned["run"], turned["spec"]["batch_size"]) == (first, 256)
    sizes = next(
        f for f in api.compare(first, second, baseline=first)["differences"] if f["field"] == "batch_size"
    )
    assert sizes["deltas"][second] == {"absolute": 192.0, "relative": 3.0}
    assert "chance cannot be told from a difference" in found["statistics"]["text"]


def test_what_is_compared_can_be_named(api: Api) -> None:
    values = {"val/loss": [0.5]}
    ids = [api.train(values, lr=lr, batch_size=size) for lr, size in ((0.1, 64), (0.2, 32))]

    assert api.compare(*ids)["verdict"]["subject"] == []
    named = api.compare(*ids, group="lr")
    assert [one["key"] for one in named["verdict"]["confounders"]] == ["batch_size"]
    assert named["statistics"]["metric"] == "val/loss"
    assert (named["statistics"]["better"], named["statistics"]["unit"]) == ("lower", None)


def test_runs_that_have_not_begun_are_named(api: Api) -> None:
    found = api.compare(api.queue(model="lenet"), api.queue(model="resnet8"))
    assert found["verdict"]["kind"] == "incomplete"
    assert {(one["key"], one["reason"]) for one in found["verdict"]["unknown"]} == {
        ("data_digest", "not_begun"),
        ("code", "not_begun"),
        ("precision", "not_begun"),
    }
    assert found["verdict"]["unknown_text"][0].startswith("Known once LeNet")
    assert found["statistics"] is None


def test_a_metric_that_no_run_has_leaves_the_rest(api: Api) -> None:
    ids = [api.train({"val/accuracy": [0.9]}, model=model) for model in ("lenet", "resnet8")]
    found = api.compare(*ids, metric="val/f1")
    assert found["verdict"]["kind"] == "controlled"
    assert found["statistics"]["text"] == "No finished run has measured this."
    assert [one["reason"] for one in found["statistics"]["left_out"]] == ["no_value", "no_value"]


def test_nan_and_unfinished_runs_are_left_out(api: Api) -> None:
    ids = [api.train({"val/accuracy": [value]}, seed=i) for i, value in enumerate([0.9, float("nan"), 1e300])]
    found = api.compare(*ids, api.queue(seed=3))["statistics"]
    assert [one["reason"] for one in found["left_out"]] == ["not_finite", "not_finite", "queued"]
    assert found["groups"][0]["values"] == [0.9]


def test_one_run_alone(api: Api) -> None:
    run = api.train({"val/accuracy": [0.9]})
    found = api.compare(run, run)
    assert len(found["runs"]) == 1
    assert found["verdict"]["kind"] == "single"
    assert (found["differences"], found["same"]["seed"]) == ([], 0)


def test_wrong_questions_are_named(api: Api) -> None:
    run = api.train({})

    def refused(*query: tuple[str, str]) -> tuple[int, str]:
        response = api.get([("run", run), *query])
        return response.status_code, response.json()["error"]["field"]

    assert refused(("run", "nothere")) == (404, "run")
    assert refused(("baseline", "nothere")) == (422, "baseline")
    assert refused(("group", "learning")) == (422, "group")
    assert refused(("at", "first")) == (422, "at")
    assert api.get([]).status_code == 422


def test_hundreds_of_runs(api: Api) -> None:
    ids = [api.queue(seed=seed, model=model) for model in ("lenet", "resnet8") for seed in range(100)]
    found = api.compare(*ids)
    assert (len(found["runs"]), found["verdict"]["subject"]) == (200, ["model"])
    assert api.get([("run", str(i)) for i in range(201)]).status_code == 422
