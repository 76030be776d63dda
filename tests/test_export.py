"""`GET /api/v1/runs/{id}/export`: every point, as CSV and JSON, on both databases."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.api import export
from app.main import create_app
from app.settings import Settings
from tests.test_compare_api import Api

N = 25_000  # more than two parts


@pytest.fixture
def api(db_url: str, tmp_path: Path) -> Iterator[Api]:
    application = create_app(Settings(data_dir=tmp_path, database_url=db_url, port=80))
    yield Api(application)
    application.state.db.dispose()


def get(api: Api, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(api.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path)

    return asyncio.run(ask())


def trained(api: Api) -> tuple[str, list[float]]:
    values = np.random.default_rng(0).normal(size=N).tolist()
    values[3], values[4] = math.nan, -math.inf
    return api.train({"train/loss": values, "val/accuracy": [0.1, 0.2]}), values


def same(found: list[float], wanted: list[float]) -> bool:
    return len(found) == len(wanted) and all(
        a == b or (a != a and b != b) for a, b in zip(found, wanted, strict=True)
    )


def test_csv_has_every_point_to_the_last_digit(api: Api) -> None:
    run, values = trained(api)
    response = get(api, f"/api/v1/runs/{run}/export")

    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == f'attachment; filename="{run}.csv"'
    rows = list(csv.DictReader(io.StringIO(response.text)))
    loss = [row for row in rows if row["metric"] == "train/loss"]
    assert same([float(row["value"]) for row in loss], values)
    assert [int(row["step"]) for row in loss] == list(range(1, N + 1))
    assert {row["time"] for row in rows} == {"1000000000.0"}
    assert (loss[3]["value"], loss[4]["value"], len(rows)) == ("nan", "-inf", N + 2)


def test_json_has_the_run_and_every_point(api: Api) -> None:
    run, values = trained(api)
    body = json.loads(get(api, f"/api/v1/runs/{run}/export?format=json").text)

    assert (body["run"]["id"], body["run"]["spec"]["dataset"]) == (run, "digits")
    assert body["run"]["resolved"]["data_digest"] == "aa"
    assert [one["metric"] for one in body["series"]] == ["train/loss", "val/accuracy"]
    points = body["series"][0]["points"]
    assert (points[3][2], points[4][2]) == ("NaN", "-Infinity")
    assert same([float(value) for _step, _time, value in points], values)
    assert body["series"][1]["points"] == [[1, 1e9, 0.1], [2, 1e9, 0.2]]


def test_some_metrics_none_and_wrong_ones(api: Api) -> None:
    run, _values = trained(api)
    some = get(api, f"/api/v1/runs/{run}/export?metric=val/accuracy").text.splitlines()
    assert some == [
        "metric,step,time,value",
        "val/accuracy,1,1000000000.0,0.1",
        "val/accuracy,2,1000000000.0,0.2",
    ]

    waiting = api.queue()
    assert get(api, f"/api/v1/runs/{waiting}/export").text.splitlines() == ["metric,step,time,value"]
    assert get(api, f"/api/v1/runs/{waiting}/export?format=json").json()["series"] == []

    for path, status, field in (
        (f"/api/v1/runs/{run}/export?metric=val/f1", 404, "metric"),
        (f"/api/v1/runs/{run}/export?format=xlsx", 422, "format"),
    ):
        response = get(api, path)
        assert (response.status_code, response.json()["error"]["field"]) == (status, field)
    assert get(api, "/api/v1/runs/nothere/export").status_code == 404


def test_a_part_is_as_large_as_it_should_be() -> None:
    assert 2 * export.ROWS < N < 3 * export.ROWS
