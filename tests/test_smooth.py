"""Smoothing: the formula, over every point, before any reduction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.smooth import smooth_values
from tests.processes import Stack


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http as client:
        yield client


def formula(values: Sequence[float], s: float) -> list[float]:
    """As TensorBoard writes it, point by point."""
    smoothed, mean, n = [], 0.0, 0
    for value in values:
        if not math.isfinite(value):
            smoothed.append(value)
            continue
        mean, n = s * mean + (1 - s) * value, n + 1
        smoothed.append(mean / (1 - s**n))
    return smoothed


@settings(deadline=None)  # the first call imports scipy
@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=60),
    st.floats(0, 0.999),
)
def test_the_average_is_the_formula(values: list[float], s: float) -> None:
    found = smooth_values(np.asarray(values, np.float64), s)
    np.testing.assert_allclose(found, formula(values, s), rtol=1e-6, atol=1e-9)


def test_a_constant_stays_itself_from_the_first_point_on() -> None:
    np.testing.assert_allclose(smooth_values(np.full(500, 3.25), 0.99), 3.25)


def test_the_past_weighs_and_the_future_does_not() -> None:
    values = np.zeros(100)
    values[50] = 1.0
    found = smooth_values(values, 0.9)
    assert not found[:50].any()
    assert found[50] > found[51] > found[60] > 0


def test_the_api_smooths_every_point_and_then_reduces(http: httpx.Client) -> None:
    made = http.post("/api/v1/runs", json={"external": True, "name": "noisy"})
    run = made.json()["id"]
    values = (
        np.random.default_rng(7).gamma(1.0, 1.0, 5000).tolist()
    )  # skewed: extremes alone have another mean
    body = {"step": list(range(1, 5001)), "values": {"train/loss": values}}
    http.post(f"/api/v1/runs/{run}/metrics", json=body).raise_for_status()
    expected = formula(values, 0.97)
    windows: list[dict[str, str | int]] = [{}, {"from": 2000, "to": 2600}, {"x": "elapsed"}]
    for window in windows:
        query: dict[str, str | int | float] = {"run": run, "points": 200, "smooth": 0.97} | window
        one = http.get("/api/v1/series", params=query).json()["series"][0]
        assert 100 < one["returned"] <= 200 < one["total"]
        np.testing.assert_allclose(one["value"], [expected[step - 1] for step in one["step"]], rtol=1e-9)
    group = http.get("/api/v1/groups", params={"run": run, "smooth": 0.97, "points": 200}).json()["groups"][0]
    np.testing.assert_allclose(group["mean"], [expected[step - 1] for step in group["step"]], rtol=1e-9)
    answer = http.get("/api/v1/series", params={"run": run, "smooth": 1})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "smooth"
