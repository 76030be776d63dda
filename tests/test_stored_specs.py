"""Specs that were stored before a rule came: shown, compared, resumed, and run again where that still means a thing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.compare import diff_specs, facts_of, judge
from app.db import Database
from app.models import Run
from app.web.specs import make_specs
from ml.events import Snapshot
from ml.spec import RunSpec
from tests import processes
from tests.bits import assert_same_bits
from tests.test_fairness import RESOLVED
from tests.test_train import collect, last_state, series

Json = dict[str, Any]
WITHOUT_EFFECT: list[tuple[Json, str, str]] = [
    ({"optimizer": "adamw", "nesterov": True}, "nesterov", "turn nesterov off"),
    ({"optimizer": "muon", "momentum": 0.9, "fused": "on"}, "fused", "no fused form"),
    ({"compile": "graph", "device": "cpu"}, "compile", "need a GPU"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web process without a worker, and its folder."""
    directory = tmp_path_factory.mktemp("stored")
    with processes.redis_server(directory) as redis:
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        processes.migrate(env)
        with processes.web_process(env, directory=directory) as web:
            yield web.url, Path(env["TRAINYARD_DATA_DIR"])


@pytest.fixture
def http(place: tuple[str, Path]) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=place[0], headers={"origin": place[0]}, trust_env=False, timeout=30, follow_redirects=True
    ) as client:
        yield client


@pytest.fixture
def db(place: tuple[str, Path]) -> Iterator[Database]:
    (file,) = place[1].glob("*.db")
    found = Database(f"sqlite:///{file}")
    yield found
    found.dispose()


def stored(http: httpx.Client, db: Database, **fields: Any) -> str:
    """A run whose row has what no request can bring in any more."""
    answer = http.post("/api/v1/runs", json={"spec": {"dataset": "digits"}})
    assert answer.status_code == 201, answer.text
    run_id: str = answer.json()["id"]
    with db.begin() as s:
        run = s.get_one(Run, run_id)
        run.spec = {**run.spec, **fields}
    return run_id


@pytest.mark.parametrize(("fields", "field", "why"), WITHOUT_EFFECT)
def test_a_run_with_what_is_refused_now_is_shown_and_not_started_again(
    http: httpx.Client, db: Database, fields: Json, field: str, why: str
) -> None:
    run_id = stored(http, db, **fields)
    told = http.get(f"/api/v1/runs/{run_id}").json()
    assert fields.items() <= told["spec"].items()
    page = http.get(f"/runs/{run_id}", headers={"accept": "text/html"})
    assert page.status_code == 200
    for path in ("/", f"/compare?run={run_id}&run={stored(http, db)}"):
        assert http.get(path, headers={"accept": "text/html"}).status_code == 200
    again = http.post(f"/api/v1/runs/{run_id}/clone")
    assert (again.status_code, again.json()["error"]["field"]) == (422, field)
    assert why in again.json()["error"]["message"]
    form = http.get(again_link(page.text), headers={"accept": "text/html"})
    assert (form.status_code, why in form.text) == (200, True)


def test_a_run_whose_deterministic_was_a_boolean_can_be_started_again(
    http: httpx.Client, db: Database
) -> None:
    run_id = stored(http, db, deterministic=False)
    page = http.get(f"/runs/{run_id}", headers={"accept": "text/html"})
    form = http.get(again_link(page.text), headers={"accept": "text/html"}).text
    (chosen,) = re.findall(r'<select[^>]*name="deterministic".*?</select>', form, re.DOTALL)
    assert re.findall(r'<option value="(\w+)"[^>]*selected', chosen) == ["off"]
    assert http.post(f"/api/v1/runs/{run_id}/clone").json()["spec"]["deterministic"] == "off"
    for value, now in ((True, "on"), ("auto", "auto")):
        answer = http.post("/api/v1/runs", json={"spec": {"dataset": "digits", "deterministic": value}})
        assert answer.json()["spec"]["deterministic"] == now


def again_link(page: str) -> str:
    (link,) = {unescape(found) for found in re.findall(r'href="([^"]*/new\?[^"]*lr=[^"]*)"', page)}
    return link


# -- compared -----------------------------------------------------------------------------------------------------


def row(run_id: str, resolved: Json = RESOLVED, **fields: Any) -> Run:
    spec = RunSpec(dataset="digits").model_dump() | fields
    run = Run(id=run_id, name=run_id, spec=spec, created_at=0.0, queued_at=0.0, updated_at=0.0)
    run.kind, run.state, run.resolved = "training", "finished", resolved
    return run


def test_the_words_of_two_versions_are_no_difference() -> None:
    rows = [row("a", deterministic=True), row("b", deterministic="on")]
    runs = [facts_of(run) for run in rows]
    assert diff_specs(runs).differing == ()
    assert judge(runs).kind == "identical"
    assert [note.kind for note in judge(runs).notes] == ["repeats"]  # of one another, as they should
    assert make_specs(rows, ["a", "b"], None).lines == []


def test_what_auto_came_to_is_compared_not_what_was_asked() -> None:
    asked = [facts_of(row(str(n), deterministic=v)) for n, v in enumerate([True, "on", "auto"])]
    assert not [note for note in judge(asked).notes if note.key == "deterministic"]
    waits = facts_of(row("w", {}, deterministic="on", fused="off"))
    assert not [note for note in judge([asked[0], waits]).notes if note.key in ("deterministic", "fused")]
    off = facts_of(row("o", RESOLVED | {"deterministic": False}, deterministic=False))
    assert [note.key for note in judge([asked[0], off]).notes if note.kind == "differs"] == ["deterministic"]


# -- resumed ------------------------------------------------------------------------------------------------------


def test_a_run_of_before_goes_on_from_its_checkpoint() -> None:
    fields = {"dataset": "digits", "train_size": 150, "val_size": 50, "epochs": 2, "optimizer": "adamw"}
    spec = RunSpec.read_stored({**fields, "nesterov": True, "deterministic": True})
    whole = collect(spec)
    state = next(event for event in whole if isinstance(event, Snapshot)).state
    state["spec"] = json.dumps(json.loads(state["spec"]) | {"deterministic": True})  # as it was written then
    again = collect(spec, resume=state)
    assert_same_bits(last_state(again), last_state(whole))
    assert series(again, "train/loss").items() <= series(whole, "train/loss").items()
