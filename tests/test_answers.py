"""GET /series and /groups over HTTP: typed and plain alike, tags that never lie, gzip, and what bad input gets."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.answers import AnswerCache, accepts_gzip
from app.api.answers import gzip as pack
from tests import processes

Json = dict[str, Any]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A web process on SQLite; no worker is needed to read curves."""
    directory = tmp_path_factory.mktemp("answers")
    identity = {"accept-encoding": "identity"}
    with processes.redis_server(directory) as redis:
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        processes.migrate(env)
        with (
            processes.web_process(env, directory=directory) as web,
            httpx.Client(base_url=web.url, headers=identity, trust_env=False, timeout=30) as client,
        ):
            yield client


def external(http: httpx.Client, points: dict[str, list[float]], **params: Any) -> str:
    run_id: str = http.post("/api/v1/runs", json={"external": True, "params": params}).json()["id"]
    send(http, run_id, points)
    return run_id


def send(http: httpx.Client, run_id: str, points: dict[str, list[float]], first: int = 1) -> None:
    values = {name: [plain(value) for value in column] for name, column in points.items()}
    length = len(next(iter(values.values())))
    body = {
        "step": list(range(first, first + length)),
        "time": [1e9 + n for n in range(length)],
        "values": values,
    }
    assert http.post(f"/api/v1/runs/{run_id}/metrics", json=body).status_code == 200


def plain(value: float) -> float | str:
    return (
        value if math.isfinite(value) else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    )


def decode(column: Json) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(column["bdata"]), "<" + column["dtype"])


CURVES = {
    "float64": [1 / n for n in range(1, 3_000)],
    "float32": [float(np.float32(1 / n)) for n in range(1, 3_000)],
    "whole": [float(n % 7) for n in range(3_000)],
    "large": [1e300, -1e-300, 0.0, -0.0, 5e-324] * 3,
    "odd": [0.5, math.nan, math.inf, -math.inf, 2.0],
    "only_nan": [math.nan] * 400,
}


@pytest.fixture(scope="module")
def curves(http: httpx.Client) -> str:
    run_id = ""
    for name, values in CURVES.items():
        if not run_id:
            run_id = external(http, {name: values}, steps_per_epoch=10, batch_size=4)
        else:
            send(http, run_id, {name: values})
    return run_id


@pytest.mark.parametrize("axis", ["step", "epoch", "samples", "time", "elapsed"])
@pytest.mark.parametrize("metric", CURVES)
def test_typed_columns_are_the_numbers_of_the_plain_ones(
    http: httpx.Client, curves: str, metric: str, axis: str
) -> None:
    query: Json = {"run": curves, "metric": metric, "x": axis, "points": 300}
    (plain_,) = http.get("/api/v1/series", params=query).json()["series"]
    (typed,) = http.get("/api/v1/series", params={**query, "format": "typed"}).json()["series"]

    assert decode(typed["step"]).tolist() == plain_["step"]
    values = np.asarray([float(value) for value in plain_["value"]])
    assert decode(typed["value"]).astype(float).tobytes() == values.tobytes()
    assert ("x" in typed) == (axis != "step")
    if axis != "step":
        assert decode(typed["x"]).astype(float).tolist() == plain_["x"]
    assert [[n, v] for n, v in enumerate(plain_["value"]) if isinstance(v, str)] == typed["odd"]
    assert {name: typed[name] for name in ("total", "returned", "cursor")} == {
        name: plain_[name] for name in ("total", "returned", "cursor")
    }


def test_the_narrowest_type_that_loses_nothing(http: httpx.Client, curves: str) -> None:
    query: Json = {"run": curves, "metric": list(CURVES), "points": 10_000, "format": "typed"}
    found = {one["metric"]: one for one in http.get("/api/v1/series", params=query).json()["series"]}
    kinds = {name: one["value"]["dtype"] for name, one in found.items()}
    assert kinds == {
        "float64": "f8", "float32": "f4", "whole": "u1", "large": "f8", "odd": "f4", "only_nan": "f4",
    }  # fmt: skip
    assert found["whole"]["step"]["dtype"] == "u2"


def test_a_series_of_only_nan_says_where(http: httpx.Client, curves: str) -> None:
    query: Json = {"run": curves, "metric": "only_nan", "points": 40}
    (found,) = http.get("/api/v1/series", params=query).json()["series"]
    assert found["total"] == 400
    assert set(found["value"]) == {"NaN"}
    assert 0 < found["returned"] <= 40


# -- tags ----------------------------------------------------------------------------------------------------


def tagged(http: httpx.Client, run_id: str, tag: str = "", **query: Any) -> tuple[int, str]:
    headers = {"if-none-match": tag} if tag else {}
    answer = http.get("/api/v1/series", params={"run": run_id, "metric": "m", **query}, headers=headers)
    assert (answer.status_code == 304) == (not answer.content)
    assert answer.headers["cache-control"] == "private, no-cache"
    return answer.status_code, answer.headers["etag"]


def test_what_has_not_changed_is_not_sent_again(http: httpx.Client) -> None:
    run_id = external(http, {"m": [1.0, 2.0]})
    http.post(f"/api/v1/runs/{run_id}/finish", json={})
    status, tag = tagged(http, run_id)
    assert status == 200
    assert tag.startswith('"')
    assert tagged(http, run_id, tag) == (304, tag)
    assert tagged(http, run_id, f'"other", {tag}') == (304, tag)
    assert tagged(http, run_id, tag, points=50)[0] == 200
    assert tagged(http, run_id, tag, format="typed")[0] == 200
    assert tagged(http, run_id, '"*"')[0] == 200


def test_a_live_run_is_never_told_unchanged_after_a_point(http: httpx.Client) -> None:
    run_id = external(http, {"m": [1.0]})
    tags: set[str] = set()
    for step in range(2, 8):
        status, tag = tagged(http, run_id, next(iter(tags), ""))
        assert status == 200 or not tags
        tags = {tag}
        send(http, run_id, {"m": [float(step)]}, first=step)
        assert tagged(http, run_id, tag)[0] == 200
        (found,) = http.get("/api/v1/series", params={"run": run_id, "metric": "m"}).json()["series"]
        assert found["step"][-1] == step


def test_an_overwritten_point_is_read_anew(http: httpx.Client) -> None:
    run_id = external(http, {"m": [1.0, 2.0]})
    _, tag = tagged(http, run_id)
    send(http, run_id, {"m": [7.0]}, first=1)
    assert tagged(http, run_id, tag)[0] == 200
    (found,) = http.get("/api/v1/series", params={"run": run_id, "metric": "m"}).json()["series"]
    assert found["value"] == [7.0, 2.0]


def test_a_deleted_run_is_gone_whatever_the_tag(http: httpx.Client) -> None:
    run_id = external(http, {"m": [1.0]})
    http.post(f"/api/v1/runs/{run_id}/finish", json={})
    _, tag = tagged(http, run_id)
    assert http.delete(f"/api/v1/runs/{run_id}").status_code == 204
    answer = http.get("/api/v1/series", params={"run": run_id}, headers={"if-none-match": tag})
    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "run")


def test_groups_have_tags_too(http: httpx.Client) -> None:
    run_id = external(http, {"m": [1.0]}, lr=0.1)
    query: Json = {"run": run_id, "metric": "m", "by": "lr"}
    tag = http.get("/api/v1/groups", params=query).headers["etag"]
    headers = {"if-none-match": tag}
    assert http.get("/api/v1/groups", params=query, headers=headers).status_code == 304
    send(http, run_id, {"m": [1.0]}, first=2)
    assert http.get("/api/v1/groups", params=query, headers=headers).status_code == 200


# -- gzip ----------------------------------------------------------------------------------------------------


def test_gzip_for_who_takes_it_and_only_for_what_is_large(http: httpx.Client, curves: str) -> None:
    query: Json = {"run": curves, "metric": "float64"}
    whole = http.get("/api/v1/series", params=query)
    packed = http.get("/api/v1/series", params=query, headers={"accept-encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == whole.headers["vary"] == "accept-encoding"
    assert packed.content == whole.content  # the client has unpacked it
    assert int(packed.headers["content-length"]) < len(whole.content) * 0.6
    assert "content-encoding" not in whole.headers
    assert packed.headers["etag"] != whole.headers["etag"]
    small = http.get("/api/v1/series", params={**query, "to": 3}, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in small.headers


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("gzip", True), ("", False), ("br", False), ("br, GZip;q=0.5", True), ("gzip;q=0", False), ("*", True),
        ("gzip; q=0.000", False), ("*;q=0", False), ("identity", False), ("*;q=0, gzip", True),
    ],
)  # fmt: skip
def test_the_header_says_whether_gzip_is_taken(header: str, taken: bool) -> None:
    assert accepts_gzip(header) is taken


def test_packed_bytes_are_gzip() -> None:
    assert gzip.decompress(pack(b"12.5," * 5_000)) == b"12.5," * 5_000


def test_the_cache_forgets_what_was_used_least() -> None:
    cache = AnswerCache(max_bytes=10)
    cache.put("a", b"12345")
    cache.put("b", b"12345")
    assert cache.get("a")
    cache.put("c", b"12345")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"12345", None, b"12345")
    cache.put("a", b"1")
    cache.put("large", b"1" * 11)
    assert len(cache) == 0


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"points": 7}, 422, "points"), ({"format": "xml"}, 422, "format"), ({"x": "wall"}, 422, "x"),
        ({"smooth": 1}, 422, "smooth"), ({"run": "nobody"}, 404, "run"), ({"from": "a"}, 422, "from"),
        ({"metric": [f"m{n}" for n in range(101)]}, 422, "metric"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["series", "groups"])
def test_what_is_asked_wrongly_is_named(
    http: httpx.Client, curves: str, path: str, query: Json, status: int, field: str
) -> None:
    answer = http.get(f"/api/v1/{path}", params={"run": curves, **query})
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_too_many_series_in_one_call(http: httpx.Client) -> None:
    query: Json = {"run": [f"r{n}" for n in range(21)], "metric": [f"m{n}" for n in range(100)]}
    answer = http.get("/api/v1/series", params=query)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "metric")


def test_an_empty_window_says_why(http: httpx.Client, curves: str) -> None:
    query: Json = {"run": curves, "metric": "float64", "from": 9, "to": 3}
    for path in ("series", "groups"):
        (found,) = http.get(f"/api/v1/{path}", params=query).json()[path]
        assert found["total"] == 0
        assert "behind" in found["note"]


# -- groups --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(http: httpx.Client) -> list[str]:
    curves = {(lr, seed): [lr * n + seed for n in range(1, 6 - seed)] for lr in (0.1, 0.2) for seed in (0, 1)}
    options = {0.1: {"activation": "relu"}, 0.2: {"activation": "tanh"}}
    return [
        external(http, {"m": values}, lr=lr, seed=seed, model_options=options[lr])
        for (lr, seed), values in curves.items()
    ]


def groups(http: httpx.Client, run_ids: list[str], **query: Any) -> list[Json]:
    answer = http.get("/api/v1/groups", params={"run": run_ids, "metric": "m", **query})
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["groups"]
    return found


def test_runs_alike_in_a_field_are_averaged(http: httpx.Client, seeds: list[str]) -> None:
    one, two = groups(http, seeds, by="lr", band="minmax")
    assert [one["key"], two["key"]] == [{"lr": 0.1}, {"lr": 0.2}]
    assert [one["runs"], two["runs"]] == [seeds[:2], seeds[2:]]
    assert one["step"] == one["x"] == [1, 2, 3, 4, 5]
    assert one["n"] == [2, 2, 2, 2, 1]
    assert one["mean"] == pytest.approx([0.6, 0.7, 0.8, 0.9, 0.5])
    assert one["low"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert (two["total"], two["returned"]) == (5, 5)


def test_bands(http: httpx.Client, seeds: list[str]) -> None:
    half = math.sqrt(0.5)  # the sample's standard deviation of two values 1 apart
    for band, width in (("std", half), ("se", half / math.sqrt(2)), ("ci95", 12.7062 * half / math.sqrt(2))):
        (one, _) = groups(http, seeds, by="model_options.activation", band=band)
        assert one["key"] == {"model_options.activation": "relu"}
        assert one["high"][0] - one["mean"][0] == pytest.approx(width, rel=1e-5)
        assert one["low"][4] == one["high"][4] == "NaN"  # one run alone has no spread


def test_groups_of_runs_without_the_field_or_the_metric(http: httpx.Client, seeds: list[str]) -> None:
    bare = external(http, {"other": [1.0]})
    found = groups(http, [*seeds, bare], by="lr")
    assert [group["key"]["lr"] for group in found] == [0.1, 0.2, None]
    assert (found[2]["step"], found[2]["total"]) == ([], 0)
    assert found[2]["note"]
    assert len(groups(http, seeds)) == 1


def test_typed_groups_are_the_same_numbers(http: httpx.Client, seeds: list[str]) -> None:
    for axis in ("step", "elapsed"):
        plain_groups = groups(http, seeds, by="lr", x=axis)
        for found, typed in zip(
            plain_groups, groups(http, seeds, by="lr", x=axis, format="typed"), strict=True
        ):
            for name in ("step", "mean", "low", "high", "n", *(["x"] if axis != "step" else [])):
                expected = np.asarray([float(value) for value in found[name]])
                assert np.array_equal(decode(typed[name]).astype(float), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ({"by": "lrr"}, "by", "did you mean 'lr'"), ({"band": "iqr"}, "band", "std"), ({"x": "time"}, "x", "elapsed"),
        ({"by": ["a"] * 9}, "by", ""),
    ],
)  # fmt: skip
def test_groups_asked_for_wrongly(
    http: httpx.Client, seeds: list[str], query: Json, field: str, says: str
) -> None:
    answer = http.get("/api/v1/groups", params={"run": seeds, "metric": "m", **query})
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, field)
    assert says in error["message"]
