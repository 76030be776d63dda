"""The HTTP contract against the real web process, route by route."""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ml.spec import RunSpec
from tests.processes import Stack, wait_for

Json = dict[str, Any]
SMALL = {"dataset": "digits", "train_size": 64, "val_size": 32, "epochs": 1}
LONG = {"dataset": "digits", "epochs": 10_000, "batch_size": 16}


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http as client:
        yield client


def ok(response: httpx.Response, status: int = 200) -> Json:
    assert response.status_code == status, response.text
    body: Json = response.json()
    return body


def refused(response: httpx.Response, status: int, code: str, field: str | None = None) -> str:
    """The message of an error in the one shape that errors have."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message"} | ({"field"} if field else set())
    assert (error["code"], error.get("field")) == (code, field)
    message: str = error["message"]
    assert len(message) > 10
    return message


def external(http: httpx.Client, **more: object) -> str:
    body = ok(http.post("/api/v1/runs", json={"external": True, **more}), 201)
    run_id: str = body["id"]
    return run_id


def training(http: httpx.Client, **more: object) -> str:
    """A run that a worker trains until it is told to stop."""
    run_id: str = ok(http.post("/api/v1/runs", json={"spec": {**LONG, **more}}), 201)["id"]
    return run_id


def send(http: httpx.Client, run_id: str, **body: object) -> httpx.Response:
    return http.post(f"/api/v1/runs/{run_id}/metrics", json=body)


def wait_state(http: httpx.Client, run_id: str, *states: str) -> Json:
    def now() -> Json | None:
        body: Json = http.get(f"/api/v1/runs/{run_id}").json()
        return body if body["state"] in states else None

    return wait_for(now, f"{run_id} to be {' or '.join(states)}", 90)


def points(http: httpx.Client, run_id: str, **query: Any) -> Json:
    (found,) = ok(http.get("/api/v1/series", params={"run": run_id, **query}))["series"]
    result: Json = found
    return result


# -- system --------------------------------------------------------------------------------------------------


def test_alive_and_ready(http: httpx.Client) -> None:
    assert ok(http.get("/healthz")) == {"status": "ok"}
    ready = ok(http.get("/readyz"))
    assert ready == {"status": "ready", "checks": {"database": "ok", "broker": "ok"}}


def test_the_catalog_says_what_can_be_trained_here(http: httpx.Client) -> None:
    catalog = ok(http.get("/api/v1/catalog"))
    assert {"lenet", "alexnet"} <= {model["name"] for model in catalog["models"]}
    assert {data["name"]: data["available"] for data in catalog["datasets"]}["digits"] is True
    assert catalog["spec"]["properties"].keys() == RunSpec.model_fields.keys()


def test_workers_and_queue(http: httpx.Client) -> None:
    def present() -> list[Json]:
        workers: list[Json] = ok(http.get("/api/v1/workers"))["workers"]
        return workers

    (worker,) = wait_for(lambda: present() or None, "the worker", 60)
    assert worker["slots"] == 2
    assert set(worker) >= {"name", "host", "devices", "running", "started_at", "seen_at"}
    assert set(ok(http.get("/api/v1/queue"))) >= {"waiting", "free_slots"}


def test_openapi_describes_every_operation(http: httpx.Client) -> None:
    document = ok(http.get("/openapi.json"))
    operations = {
        f"{method} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    expected = {
        "get /healthz", "get /readyz", "get /api/v1/catalog", "get /api/v1/workers", "get /api/v1/queue",
        "post /api/v1/runs", "get /api/v1/runs", "get /api/v1/runs/{run_id}", "patch /api/v1/runs/{run_id}",
        "delete /api/v1/runs/{run_id}", "post /api/v1/runs/{run_id}/cancel", "post /api/v1/runs/{run_id}/pause",
        "post /api/v1/runs/{run_id}/resume", "post /api/v1/runs/{run_id}/clone", "post /api/v1/experiments",
        "post /api/v1/preflight", "get /api/v1/series", "get /api/v1/events", "post /api/v1/runs/{run_id}/finish",
        "post /api/v1/runs/{run_id}/metrics", "get /api/v1/compare", "get /api/v1/runs/{run_id}/export",
    }  # fmt: skip
    assert expected <= operations.keys()
    assert [name for name, operation in operations.items() if not operation.get("summary")] == []
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)


def test_addresses_and_methods_that_there_are_not(http: httpx.Client) -> None:
    refused(http.get("/api/v1/nothing"), 404, "not_found")
    refused(http.put("/api/v1/runs"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume"),
        ("POST", "/clone"), ("POST", "/finish"), ("POST", "/metrics"),
    ],
)  # fmt: skip
def test_an_unknown_run_is_404_on_every_route(http: httpx.Client, method: str, path: str) -> None:
    bodies: dict[str, Json] = {"/metrics": {"step": [1], "values": {"m": [1.0]}}, "/finish": {}, "": {}}
    send_body = {"json": bodies[path]} if method in ("POST", "PATCH") and path in bodies else {}
    message = refused(http.request(method, f"/api/v1/runs/nobody{path}", **send_body), 404, "not_found")  # type: ignore[arg-type]
    assert "nobody" in message


# -- submitting ----------------------------------------------------------------------------------------------


def test_a_run_is_queued_with_every_default_written_down(http: httpx.Client) -> None:
    body = {"spec": LONG, "name": " mine ", "experiment": "e", "tags": ["a", "ü"], "notes": "n"}
    response = http.post("/api/v1/runs", json=body)
    run = ok(response, 201)

    assert (run["state"], run["name"], run["experiment"], run["tags"]) == ("queued", "mine", "e", ["a", "ü"])
    assert run["spec"] == RunSpec.model_validate(LONG).model_dump()
    assert response.headers["location"] == run["url"] == f"/runs/{run['id']}"
    detail = ok(http.get(f"/api/v1/runs/{run['id']}"))
    assert detail["notes"] == "n"
    assert detail["events"][0]["to"] == "queued"
    assert detail["created_at"].endswith("Z")
    http.post(f"/api/v1/runs/{run['id']}/cancel")


def test_the_same_key_gives_the_same_run_and_another_request_a_conflict(http: httpx.Client) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    first = ok(http.post("/api/v1/runs", json={"external": True, "name": "one"}, headers=key), 201)
    again = ok(http.post("/api/v1/runs", json={"external": True, "name": "one"}, headers=key), 200)
    assert again["id"] == first["id"]
    other = http.post("/api/v1/runs", json={"external": True, "name": "two"}, headers=key)
    refused(other, 409, "conflict", "Idempotency-Key")
    late = http.post("/api/v1/runs", json={"external": True}, headers={"Idempotency-Key": "k" * 201})
    assert late.status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, None),
        ({"spec": {}, "external": True}, None),
        ({"spec": {}, "params": {"a": 1}}, None),
        ({"spec": {}, "surprise": 1}, "surprise"),
        ({"spec": {"learning_rate": 0.1}}, "spec.learning_rate"),
        ({"spec": {"model": "vgg"}}, "spec.model"),
        ({"spec": {"model": 5}}, "spec.model"),
        ({"spec": {"model_options": {"activation": "nope"}}}, "spec.model_options.activation"),
        ({"spec": {"model_options": {"deep": 1}}}, "spec.model_options.deep"),
        ({"spec": {"dataset": "digits", "train_size": 10_000_000}}, "spec.train_size"),
        ({"spec": {"epochs": 10_000, "batch_size": 1}}, "spec.epochs"),
        ({"spec": []}, "spec"),
        ({"spec": {}, "name": ""}, "name"),
        ({"spec": {}, "name": "x" * 201}, "name"),
        ({"spec": {}, "tags": ["t"] * 33}, "tags"),
        ({"spec": {}, "tags": [1]}, "tags.0"),
    ],
)
def test_what_does_not_fit_names_its_field(http: httpx.Client, body: Json, field: str | None) -> None:
    response = http.post("/api/v1/runs", json=body)
    assert response.json()["error"].get("field") in (field, "") if field is None else True
    if field is not None:
        message = refused(response, 422, "invalid", field)
        assert message.startswith(field)
    assert response.status_code == 422


BAD_NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1",
    "9223372036854775808",
    '"1e5"',
    "true",
    "null",
    "[]",
]


@pytest.mark.parametrize(
    "field", ["lr", "momentum", "weight_decay", "epochs", "batch_size", "seed", "train_size"]
)
@pytest.mark.parametrize("literal", BAD_NUMBERS)
def test_numbers_that_are_none_are_refused_by_name(http: httpx.Client, field: str, literal: str) -> None:
    if field == "train_size" and literal == "null":
        return  # all images
    body = f'{{"spec": {{"dataset": "digits", "{field}": {literal}}}}}'
    response = http.post("/api/v1/runs", content=body, headers={"content-type": "application/json"})
    refused(response, 422, "invalid", f"spec.{field}")


@pytest.mark.parametrize("field", ["lr", "epochs", "batch_size"])
def test_zero_and_minus_zero_are_out_of_bounds(http: httpx.Client, field: str) -> None:
    for literal in ("0", "-0", "-0.0"):
        body = f'{{"spec": {{"{field}": {literal}}}}}'
        response = http.post("/api/v1/runs", content=body, headers={"content-type": "application/json"})
        refused(response, 422, "invalid", f"spec.{field}")


@pytest.mark.parametrize("content", [b"", b"{", b'{"spec": {}}}', b"\xff\xfe", b"[" * 100_000, b"nonsense"])
def test_a_body_that_is_no_json_is_400(http: httpx.Client, content: bytes) -> None:
    response = http.post("/api/v1/runs", content=content, headers={"content-type": "application/json"})
    if content:
        refused(response, 400, "invalid_json")
    else:
        assert response.status_code == 422


def test_a_huge_body_is_413_announced_or_chunked(http: httpx.Client) -> None:
    huge = b'{"spec": {}, "notes": "' + b"x" * 300_000 + b'"}'
    headers = {"content-type": "application/json"}
    refused(http.post("/api/v1/runs", content=huge, headers=headers), 413, "too_large")

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(huge), 10_000):
            yield huge[start : start + 10_000]

    refused(http.post("/api/v1/runs", content=pieces(), headers=headers), 413, "too_large")


POISON = [
    '{"external": true, "params": {"a": NaN}}',
    '{"external": true, "params": {"a": [1e999]}}',
    '{"external": true, "params": {"a": {"b": -Infinity}}}',
    '{"external": true, "name": "a\\u0000b"}',
    '{"external": true, "tags": ["\\u0000"]}',
    '{"external": true, "notes": "\\u0000"}',
    '{"external": true, "params": {"\\u0000": 1}}',
    '{"external": true, "params": {"model": "\\u0000"}}',
    '{"external": true, "params": {"a": "\\ud800"}}',
    '{"external": true, "params": {"\\udfff": 1}}',
    '{"external": true, "name": "\\ud800"}',
    '{"external": true, "params": {"a": ' + "[" * 500 + "]" * 500 + "}}",
    '{"spec": {"model_options": {"activation": "\\ud800"}}}',
]


@pytest.mark.parametrize("body", POISON)
def test_what_cannot_be_stored_or_told_again_is_refused(http: httpx.Client, body: str) -> None:
    response = http.post("/api/v1/runs", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    assert response.json()["error"]["field"]
    ok(http.get("/api/v1/runs"))


def test_an_experiment_is_all_combinations_or_nothing(http: httpx.Client) -> None:
    name = f"sweep {secrets.token_hex(4)}"
    body = {
        "name": name,
        "spec": LONG,
        "vary": {"model": ["lenet", "resnet8"], "seed": [0, 1, 2]},
        "tags": ["t"],
    }
    made = ok(http.post("/api/v1/experiments", json=body), 201)
    assert [(r["model"], r["spec"]["seed"]) for r in made["runs"]] == [
        (model, seed) for model in ("lenet", "resnet8") for seed in (0, 1, 2)
    ]
    assert {(r["experiment"], r["spec"]["epochs"], tuple(r["tags"])) for r in made["runs"]} == {
        (name, 10_000, ("t",))
    }
    assert made["url"].startswith("/compare?run=")
    assert {r["spec"]["precision"] for r in made["runs"]} == {
        "fp32"
    }  # auto would not be the same for both models
    for run in made["runs"]:
        http.post(f"/api/v1/runs/{run['id']}/cancel")

    before = len(ok(http.get("/api/v1/runs", params={"experiment": name}))["runs"])
    for vary, field in (
        ({"seed": [5, -1]}, "vary.seed"),
        ({"sead": [5]}, "vary.sead"),
        ({"lr": [0.1, math.inf]}, "vary.lr"),
        ({"seed": []}, "vary.seed"),
        ({"seed": list(range(50)), "epochs": list(range(1, 6))}, "vary"),
        ({"model_options": [{"activation": "no"}]}, "vary.model_options.activation"),
    ):
        content = json.dumps({**body, "vary": vary})
        answer = http.post(
            "/api/v1/experiments", content=content, headers={"content-type": "application/json"}
        )
        refused(answer, 422, "invalid", field)
    wrong = http.post("/api/v1/experiments", json={**body, "spec": {"lr": 99}})
    refused(wrong, 422, "invalid", "spec.lr")
    assert len(ok(http.get("/api/v1/runs", params={"experiment": name}))["runs"]) == before


# -- life of a run -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pause_resume_clone_cancel_and_delete(http: httpx.Client) -> None:
    run_id = training(http)
    path = f"/api/v1/runs/{run_id}"
    wait_for(lambda: http.get(path).json()["step"] > 0, "its first steps", 90)
    refused(http.delete(path), 409, "conflict")
    refused(http.post(f"{path}/resume"), 409, "conflict")
    assert ok(http.post(f"{path}/pause"), 202)["pause_requested"] is True
    ok(http.post(f"{path}/pause"), 202)
    paused = wait_state(http, run_id, "paused")
    assert 0 < paused["step"] < paused["total_steps"]
    assert paused["progress"] < 1
    refused(http.post(f"{path}/pause"), 409, "conflict")

    assert ok(http.post(f"{path}/resume"), 202)["state"] in ("queued", "running")
    wait_for(lambda: http.get(path).json()["step"] > paused["step"], "more steps", 90)
    assert ok(http.get(path))["attempt"] == 2
    twin = ok(http.post(f"{path}/clone"), 201)
    assert twin["id"] != run_id
    assert (twin["spec"], twin["state"]) == (paused["spec"], "queued")
    assert http.post(f"/api/v1/runs/{twin['id']}/cancel").status_code in (200, 202)  # a worker may have it

    assert ok(http.post(f"{path}/cancel"), 202)["cancel_requested"] is True
    canceled = wait_state(http, run_id, "canceled")
    assert canceled["ended_at"] is not None
    refused(http.post(f"{path}/cancel"), 409, "conflict")
    refused(http.post(f"{path}/pause"), 409, "conflict")
    assert http.delete(path).status_code == 204
    refused(http.get(path), 404, "not_found")
    assert http.get("/api/v1/series", params={"run": run_id}).status_code == 404
    wait_state(http, twin["id"], "canceled")


def test_name_notes_tags_and_experiment_can_be_changed_and_nothing_else(http: httpx.Client) -> None:
    run_id = external(http, name="before", tags=["a"])
    path = f"/api/v1/runs/{run_id}"
    changed = ok(http.patch(path, json={"name": "after", "notes": "<b>", "tags": [], "experiment": "x"}))
    assert [changed[name] for name in ("name", "notes", "tags", "experiment")] == ["after", "<b>", [], "x"]
    assert ok(http.patch(path, json={"notes": ""}))["name"] == "after"
    refused(http.patch(path, json={"state": "finished"}), 422, "invalid", "state")
    refused(http.patch(path, json={"name": " "}), 422, "invalid", "name")
    assert ok(http.get(path))["notes"] == ""


# -- lists ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(http: httpx.Client) -> tuple[str, list[str]]:
    """An experiment of 45 runs, several with the same name, model and state."""
    experiment = f"many {secrets.token_hex(4)}"
    made = [
        external(
            http, experiment=experiment, name=f"run {i % 7}", tags=[f"t{i % 3}", 'quo"te%_'],
            params={"model": f"model {i % 4}", "dataset": "d" if i % 2 else None},
        )
        for i in range(45)
    ]  # fmt: skip
    for run_id in made[::5]:
        ok(http.post(f"/api/v1/runs/{run_id}/finish", json={"state": "failed", "error": "x"}))
    return experiment, made


@pytest.mark.parametrize("sort", ["created", "name", "state", "model", "dataset", "updated"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_pages_hold_every_run_once(
    http: httpx.Client, many: tuple[str, list[str]], sort: str, sign: str
) -> None:
    experiment, made = many
    query: Json = {"experiment": experiment, "sort": sign + sort, "limit": 7}
    seen: list[Json] = []
    while True:
        page = ok(http.get("/api/v1/runs", params=query))
        seen += page["runs"]
        if page["next_cursor"] is None:
            break
        assert len(page["runs"]) == 7
        query["cursor"] = page["next_cursor"]
    assert sorted(run["id"] for run in seen) == sorted(made)
    column = {"created": "id", "updated": "updated_at"}.get(sort, sort)
    keys = [(run[column], run["id"]) for run in seen if run[column] is not None]
    assert keys == sorted(keys, reverse=bool(sign)) if sort != "updated" else True
    assert [key for key, _ in keys] == sorted((key for key, _ in keys), reverse=bool(sign))
    assert all(run[column] is None for run in seen[len(keys) :]), "what is missing comes last"


def test_new_runs_do_not_disturb_the_pages_of_older_ones(
    http: httpx.Client, many: tuple[str, list[str]]
) -> None:
    experiment, made = many
    first = ok(http.get("/api/v1/runs", params={"experiment": experiment, "limit": 20}))
    late = external(http, experiment=experiment)
    query = {"experiment": experiment, "limit": 200, "cursor": first["next_cursor"]}
    rest = ok(http.get("/api/v1/runs", params=query))
    assert [run["id"] for run in first["runs"] + rest["runs"]] == made[::-1]
    http.post(f"/api/v1/runs/{late}/finish", json={})
    http.delete(f"/api/v1/runs/{late}")


def test_filters(http: httpx.Client, many: tuple[str, list[str]]) -> None:
    experiment, made = many

    def count(**query: Any) -> int:
        rows = ok(http.get("/api/v1/runs", params={"experiment": experiment, "limit": 200, **query}))["runs"]
        return len(rows)

    assert count() == len(made)
    assert count(state="failed") == 9
    assert count(state=["failed", "running"]) == 45
    assert count(model="model 0") == 12
    assert count(model=["model 0", "model 1"]) == 23
    assert count(dataset="d") == 22
    assert count(tag="t0") == 15
    assert count(tag="t") == 0  # a whole tag, not a part of one
    assert count(tag='quo"te%_') == 45
    assert count(tag="%") == 0
    assert count(text="RUN 3") == 6
    assert count(text="%") == 0
    assert count(text="model 2", state="failed") == 2
    assert count(text="nobody") == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sort", "id; DROP TABLE run"), ("sort", "spec"), ("sort", "--name"), ("sort", "name desc"), ("sort", ""),
        ("state", "running' OR '1'='1"), ("cursor", "AAAA"), ("cursor", "ü"), ("cursor", "bnVsbA"),
        ("limit", "0"), ("limit", "1001"), ("limit", "many"), ("limit", "1e9"),
    ],
)  # fmt: skip
def test_a_list_asked_for_wrongly_names_the_parameter(http: httpx.Client, name: str, value: str) -> None:
    refused(http.get("/api/v1/runs", params={name: value}), 422, "invalid", name)


@pytest.mark.parametrize("name", ["experiment", "model", "dataset", "tag", "text"])
@pytest.mark.parametrize("value", ["' OR 1=1 --", '"; DROP TABLE run; --', "%' --", "\\", "a\x00b"])
def test_values_of_filters_are_only_values(http: httpx.Client, name: str, value: str) -> None:
    response = http.get("/api/v1/runs", params={name: value})
    if "\x00" in value:
        assert response.status_code in (200, 422)
    else:
        assert ok(response)["runs"] == []
    ok(http.get("/api/v1/runs"))


def test_a_cursor_belongs_to_its_order(http: httpx.Client, many: tuple[str, list[str]]) -> None:
    cursor = ok(http.get("/api/v1/runs", params={"experiment": many[0], "limit": 2}))["next_cursor"]
    refused(http.get("/api/v1/runs", params={"sort": "name", "cursor": cursor}), 422, "invalid", "cursor")


# -- external runs -------------------------------------------------------------------------------------------


def test_metrics_in_any_order_once_a_batch_with_holes(http: httpx.Client) -> None:
    run_id = external(http)
    first: Json = {"batch": "b1", "step": [3, 1], "time": [13.0, 11.0], "values": {"train/loss": [0.3, 0.1]}}
    assert ok(send(http, run_id, **first)) == {"run": run_id, "cursor": 1, "written": 2, "duplicate": False}
    assert ok(send(http, run_id, **first)) == {"run": run_id, "cursor": 1, "written": 0, "duplicate": True}
    second: Json = {
        "step": [2, 3, 4],
        "values": {"train/loss": ["NaN", 0.33, None], "a b": [None, None, "-Infinity"]},
    }
    assert ok(send(http, run_id, **second))["written"] == 3

    found = points(http, run_id)
    assert (found["step"], found["value"]) == ([1, 2, 3], [0.1, "NaN", 0.33])
    assert (found["total"], found["returned"], found["cursor"]) == (3, 3, 2)
    assert points(http, run_id, metric="a b")["value"] == ["-Infinity"]
    summary = ok(http.get(f"/api/v1/runs/{run_id}"))["summary"]
    assert summary["train/loss"] == {
        "count": 3, "nonfinite": 1, "last": 0.33, "last_step": 3, "min": 0.1, "min_step": 1, "max": 0.33, "max_step": 3,
    }  # fmt: skip
    assert (summary["a b"]["last"], summary["a b"]["nonfinite"]) == (None, 1)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"step": [1], "values": {}}', "values"),
        ('{"step": [], "values": {"m": []}}', "step"),
        ('{"step": [-1], "values": {"m": [1]}}', "step.0"),
        ('{"step": [9007199254740993], "values": {"m": [1]}}', "step.0"),
        ('{"step": [true], "values": {"m": [1]}}', "step.0"),
        ('{"step": [1.0], "values": {"m": [1]}}', "step.0"),
        ('{"step": ["1"], "values": {"m": [1]}}', "step.0"),
        ('{"step": [1], "values": {"m": [null]}}', "values"),
        ('{"step": [1], "time": [NaN], "values": {"m": [1]}}', "time.0"),
        ('{"step": [1], "time": [1e999], "values": {"m": [1]}}', "time.0"),
        ('{"step": [1], "values": {"m": [1]}, "extra": 1}', "extra"),
        ('{"step": [1], "batch": "", "values": {"m": [1]}}', "batch"),
    ],
)
def test_metrics_that_do_not_fit_name_their_field(http: httpx.Client, body: str, field: str) -> None:
    run_id = external(http)
    headers = {"content-type": "application/json"}
    response = http.post(f"/api/v1/runs/{run_id}/metrics", content=body, headers=headers)
    refused(response, 422, "invalid", field)
    assert ok(http.get(f"/api/v1/runs/{run_id}"))["cursor"] == 0


@pytest.mark.parametrize("body", [
    '{"step": [1, 2], "values": {"m": [1]}}', '{"step": [1], "values": {"m": ["nan"]}}',
    '{"step": [1], "values": {"<script>": [1]}}', '{"step": [1], "values": {"m": [true]}}',
    '{"step": [1], "values": {"m\\u0000": [1]}}', '{"step": [1], "batch": "\\u0000", "values": {"m": [1]}}',
])  # fmt: skip
def test_metrics_of_the_wrong_kind_are_refused(http: httpx.Client, body: str) -> None:
    run_id = external(http)
    headers = {"content-type": "application/json"}
    assert http.post(f"/api/v1/runs/{run_id}/metrics", content=body, headers=headers).status_code == 422


def test_numbers_of_metrics_keep_their_value(http: httpx.Client) -> None:
    run_id = external(http)
    literals = [
        "NaN",
        "Infinity",
        "1e999",
        "-0",
        "-0.0",
        "1e400",
        "9223372036854775808",
        "0.1",
        "5e-324",
    ]
    body = f'{{"step": {list(range(len(literals)))}, "values": {{"m": [{", ".join(literals)}]}}}}'
    headers = {"content-type": "application/json"}
    response = http.post(f"/api/v1/runs/{run_id}/metrics", content=body, headers=headers)
    ok(response)
    found = points(http, run_id, metric="m")["value"]
    assert found == [
        "NaN", "Infinity", "Infinity", 0, 0, "Infinity", 2**63, 0.1, 5e-324,
    ]  # fmt: skip


def test_finish_ends_an_external_run_and_what_comes_later_is_409(http: httpx.Client) -> None:
    run_id = external(http)
    path = f"/api/v1/runs/{run_id}"
    ok(send(http, run_id, step=[1], values={"m": [1.0]}))
    refused(http.post(f"{path}/finish", json={"state": "paused"}), 422, "invalid", "state")
    refused(http.post(f"{path}/pause"), 409, "conflict")
    refused(http.post(f"{path}/clone"), 422, "invalid")
    ended = ok(http.post(f"{path}/finish", json={"state": "failed", "error": "out of paper"}))
    assert (ended["state"], ended["error"]) == ("failed", "out of paper")
    refused(send(http, run_id, step=[2], values={"m": [1.0]}), 409, "conflict")
    refused(http.post(f"{path}/finish", json={}), 409, "conflict")
    refused(http.post(f"{path}/resume"), 409, "conflict")
    assert points(http, run_id, metric="m")["step"] == [1]


def test_batches_sent_at_once_are_all_there_once(http: httpx.Client, stack: Stack) -> None:
    run_id, start = external(http), threading.Barrier(8)

    def write(worker: int) -> None:
        start.wait()
        with stack.http as mine:
            for batch in range(10):
                ok(send(mine, run_id, batch=f"{batch}", step=[batch], values={"m": [float(batch)]}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = points(http, run_id, metric="m")
    assert (found["step"], found["cursor"]) == (list(range(10)), 10)


# -- series --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve(http: httpx.Client) -> str:
    """10,000 points, one a second from its start on, a spike at step 7,777, of 100 steps an epoch, 32 images each."""
    run_id = external(http, params={"steps_per_epoch": 100, "batch_size": 32})
    steps = list(range(1, 10_001))
    values = [1 / step for step in steps]
    values[7_776] = 50.0
    ok(send(http, run_id, step=steps, time=[1e9 + step for step in steps], values={"train/loss": values}))
    return run_id


def test_a_reduced_series_is_of_real_points_and_shows_the_spike(http: httpx.Client, curve: str) -> None:
    found = points(http, curve, points=500)
    assert found["total"] == 10_000
    assert found["returned"] == len(found["step"]) == len(found["value"]) <= 500
    assert (found["step"][0], found["step"][-1]) == (1, 10_000)
    assert dict(zip(found["step"], found["value"], strict=True))[7_777] == 50.0
    assert all(
        value == (50.0 if n == 7_777 else 1 / n)
        for n, value in zip(found["step"], found["value"], strict=True)
    )


@pytest.mark.parametrize(
    ("axis", "low", "high", "steps"),
    [
        ("step", 100, 120, range(100, 121)), ("step", 99.5, 100.5, [100]), ("step", -1e300, 3, [1, 2, 3]),
        ("step", 9_999, 1e300, [9_999, 10_000]), ("step", 5, 4, []),
        ("epoch", 0.99, 1.01, [99, 100, 101]), ("samples", 64, 96, [2, 3]),
        ("time", 1e9 + 10, 1e9 + 12, [10, 11, 12]),
    ],
)  # fmt: skip
def test_windows(
    http: httpx.Client, curve: str, axis: str, low: float, high: float, steps: list[int]
) -> None:
    query: Json = {"x": axis, "from": low, "to": high}
    found = points(http, curve, **query)
    assert found["step"] == list(steps)
    assert found["total"] == len(found["step"])
    assert all(low <= x <= high for x in found["x"])


def test_elapsed_counts_from_the_start_of_the_run(http: httpx.Client, curve: str) -> None:
    elapsed = points(http, curve, x="elapsed")
    clock = points(http, curve, x="time")
    differences = {round(t - e, 2) for t, e in zip(clock["x"], elapsed["x"], strict=True)}
    assert len(differences) == 1
    low, high = elapsed["x"][10], elapsed["x"][20]
    window = points(http, curve, x="elapsed", **{"from": low - 0.01, "to": high + 0.01})
    assert (window["step"][0], window["step"][-1]) == (elapsed["step"][10], elapsed["step"][20])


def test_a_series_that_there_is_not_comes_back_empty_with_the_reason(http: httpx.Client, curve: str) -> None:
    empty = points(http, curve, metric="val/loss")
    assert (empty["step"], empty["x"], empty["value"], empty["total"]) == ([], [], [], 0)
    assert empty["note"]
    bare = external(http)
    ok(send(http, bare, step=[1], values={"train/loss": [1.0]}))
    assert "epoch" in points(http, bare, x="epoch")["note"]


def test_many_series_in_one_answer(http: httpx.Client, curve: str) -> None:
    other = external(http)
    query: Json = {"run": [curve, other, curve], "metric": ["train/loss", "m"], "points": 8}
    found = ok(http.get("/api/v1/series", params=query))["series"]
    assert [(one["run"], one["metric"]) for one in found] == [
        (run, metric) for run in (curve, other) for metric in ("train/loss", "m")
    ]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"points": 1}, "points"), ({"points": 10_001}, "points"), ({"x": "wall"}, "x"), ({"from": "NaN"}, "from"),
        ({"to": "inf"}, "to"), ({"run": []}, "run"),
    ],
)  # fmt: skip
def test_a_window_asked_for_wrongly_names_the_parameter(
    http: httpx.Client, curve: str, query: Json, field: str
) -> None:
    refused(http.get("/api/v1/series", params={"run": curve, **query}), 422, "invalid", field)


def test_an_unknown_run_among_known_ones_is_404(http: httpx.Client, curve: str) -> None:
    refused(http.get("/api/v1/series", params={"run": [curve, "nobody"]}), 404, "not_found", "run")
