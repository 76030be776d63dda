"""R5, R9: nothing in a request makes unbounded work, and what would be SQL is only text, on both databases."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn
from sqlmodel import select

from app import connection, listing, query, runs, security
from app.chunks import make_block
from app.db import Database
from app.errors import TrainyardError
from app.listing import Filter
from app.live import MAX_STREAMS, Stream
from app.main import create_app
from app.models import Run
from app.settings import Settings
from tests.processes import Web, free_port, migrate, redis_server, trainyard_env, wait_for, web_process
from tests.security.wire import Wire

SPEC = {"model": "lenet", "dataset": "digits"}
ODD_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "9223372036854775808",
    "1e5",
    "true",
    "",
    "0x10",
)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Takes two runs into its queue, and believes who a client is."""
    directory = tmp_path_factory.mktemp("limits")
    with redis_server(directory) as redis:
        env = trainyard_env(
            directory, broker_url=redis.broker_url, MAX_QUEUED="2", TRUSTED_PROXIES="127.0.0.1"
        )
        migrate(env)
        _ten_long_runs(Settings(data_dir=directory).database_url)
        with web_process(env, directory=directory) as started:
            yield started


@pytest.fixture
def wire(web: Web) -> Iterator[Wire]:
    with Wire(web.url) as opened:
        yield opened


def _ten_long_runs(url: str) -> None:
    """A million points each, with some that are not finite."""
    database, steps = Database(url), np.arange(1, 1_000_001)
    values = np.sin(steps / 1e4)
    values[[10, 500_000]] = np.nan, np.inf
    for number in range(10):
        with database.begin() as s:
            run, _new = runs.create_run(s, runs.NewRun(name=f"long {number}", spec=None), max_queued=1)
            points = {"train/loss": make_block(steps, np.full(len(steps), 1e9), values)}
            runs.append_external(s, run.id, None, points)
    database.dispose()


def strict(body: bytes) -> Any:
    """What a browser's JSON.parse takes."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(body, parse_constant=refuse)


def long_runs(wire: Wire) -> list[str]:
    return [run["id"] for run in strict(wire.get("/api/v1/runs", q="name ~ long").body)["runs"]]


# -- answers ---------------------------------------------------------------------------------------------------------


def test_ten_million_points_are_a_small_answer(wire: Wire) -> None:
    ids = long_runs(wire)
    assert len(ids) == 10
    runs_asked = "&".join(f"run={run}" for run in ids)
    answer = wire.ask("GET", f"/api/v1/series?{runs_asked}&metric=train/loss")
    assert answer.status == 200
    assert len(answer.body) < 3_000_000
    series = strict(answer.body)["series"]
    assert [one["total"] for one in series] == [1_000_000] * 10
    assert all({"NaN", "Infinity"} <= set(map(str, one["value"])) for one in series)


def test_an_answer_that_would_be_too_large_is_refused_with_what_fits(wire: Wire) -> None:
    runs_asked = "&".join(f"run={one}" for one in long_runs(wire))
    metrics = "&".join(f"metric=m{i}" for i in range(100))
    for path in ("series", "groups"):
        answer = wire.ask("GET", f"/api/v1/{path}?{runs_asked}&{metrics}&points=10000")
        assert answer.status == 422
        error = strict(answer.body)["error"]
        assert (error["field"], "2000 points each" in error["message"]) == ("points", True)


def test_no_answer_holds_what_json_cannot(wire: Wire) -> None:
    run = long_runs(wire)[0]
    body = {"external": True, "name": "odd", "params": {"lr": "NaN", "x": "Infinity"}}
    odd = strict(wire.send_json("POST", "/api/v1/runs", body).body)["id"]
    values = {"m": ["NaN", "Infinity", "-Infinity", 1e308], "n": ["NaN", None, None, None]}
    sent = wire.send_json("POST", f"/api/v1/runs/{odd}/metrics", {"step": [1, 2, 3, 4], "values": values})
    assert sent.status == 200
    for target in (
        "/api/v1/runs", f"/api/v1/runs/{odd}", f"/api/v1/runs/{run}", f"/api/v1/compare?run={run}&run={odd}",
        f"/api/v1/series?run={odd}&metric=m&metric=n", f"/api/v1/groups?run={odd}&run={run}&metric=m",
        f"/api/v1/groups?run={odd}&metric=n&band=ci95", f"/api/v1/runs/{odd}/export?format=json",
        f"/api/v1/runs/{odd}/artifacts", "/api/v1/queue", "/api/v1/workers", "/api/v1/catalog", "/openapi.json",
        f"/api/v1/series?run={odd}&metric=m&format=typed", "/api/v1/runs?sort=metric.m.max",
        "/api/v1/runs?q=metric.m.max>1",
    ):  # fmt: skip
        answer = wire.ask("GET", target)
        assert answer.status == 200, target
        strict(answer.body)


def test_every_list_has_an_end(wire: Wire) -> None:
    for target in (
        "/api/v1/runs?limit=1001",
        "/api/v1/runs?limit=0",
        "/api/v1/disagreements?run=a&limit=501",
    ):
        assert wire.ask("GET", target).status == 422, target


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_odd_numbers_in_a_query_are_refused_by_name(wire: Wire) -> None:
    document = strict(wire.get("/openapi.json").body)
    tried = 0
    for path, methods in document["paths"].items():
        for one in methods.get("get", {}).get("parameters", []):
            schema = one["schema"]
            kinds = {schema.get("type"), *(part.get("type") for part in schema.get("anyOf", []))}
            if one["in"] != "query" or not kinds & {"integer", "number"}:
                continue
            for text in ODD_NUMBERS:
                target = path.replace("{run_id}", "x")
                answer = wire.get(target, run="x", **{one["name"]: text})
                takes = text in ("1e5", "9223372036854775808") and "number" in kinds
                wanted = 404 if takes and "maximum" not in str(one) else 422
                assert answer.status == wanted, (target, one["name"], text)
                if answer.status == 422:
                    assert strict(answer.body)["error"]["field"] == one["name"]
                tried += 1
    assert tried >= 80


# -- how much may be asked -------------------------------------------------------------------------------------------


def test_a_full_queue_says_when_to_try_again(wire: Wire) -> None:
    answers = [wire.send_json("POST", "/api/v1/runs", {"spec": SPEC}) for _ in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    experiment = {"name": "e", "spec": SPEC, "vary": {"seed": [0, 1]}}
    assert wire.send_json("POST", "/api/v1/experiments", experiment).status == 429
    assert len(strict(wire.get("/api/v1/queue").body)["waiting"]) == 2, "all of an experiment, or none"
    answer = wire.ask("POST", "/new", body=b"model=lenet&dataset=digits&epochs=1&batch_size=64&lr=0.1&seed=0&seeds=1",
                      headers={"content-type": "application/x-www-form-urlencoded"})  # fmt: skip
    assert answer.status < 500


def _streams(web: Web, client: str, count: int, opened: ExitStack) -> list[int]:
    """Status of this many event streams, all open at once."""
    found = []
    for _ in range(count):
        wire = opened.enter_context(Wire(web.url))
        found.append(wire.begin("GET", "/api/v1/events", {"x-forwarded-for": client}))
    return found


def test_one_address_cannot_take_all_event_streams(web: Web) -> None:
    with ExitStack() as opened:
        assert _streams(web, "203.0.113.7", 101, opened) == [200] * 100 + [429]
        assert _streams(web, "203.0.113.8", 1, opened) == [200]
        refused = opened.enter_context(Wire(web.url)).ask(
            "GET", "/api/v1/events", headers={"x-forwarded-for": "203.0.113.7"}
        )
        assert int(refused.headers["retry-after"]) > 0
        assert "close some pages" in strict(refused.body)["error"]["message"]

    def has_room() -> bool:
        with ExitStack() as opened:
            return _streams(web, "203.0.113.7", 1, opened) == [200]

    wait_for(has_room, "the streams that ended to be let go of", 60)


# -- odd requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"a":' * 40_000, 400),
        (b'{"external":true,"params":' + b'{"a":' * 50 + b"1" + b"}" * 51, 422),
        (b'{"external":true,"params":{"a":1e999}}', 422),
        (b'{"external":true,"params":{"a":NaN}}', 422),
        (b'{"external":true,"name":"\\ud800"}', 422),
        (b"\xff\xfe{", 400),
        (b'{"external":true,"name":' + b"1" * 100_000 + b"}", 422),
        (b'{"a":1,' * 2 + b'"external":true}', 400),
        (b"", 422),
    ],
    ids=range(10),
)
def test_odd_json_is_refused(wire: Wire, content: bytes, status: int) -> None:
    answer = wire.ask("POST", "/api/v1/runs", body=content, headers={"content-type": "application/json"})
    assert answer.status in (status, 400, 422)
    assert strict(answer.body)["error"]["message"]


def test_a_query_of_many_parameters_is_answered(wire: Wire) -> None:
    for target in ("/", "/api/v1/runs", "/compare", "/new", "/api/v1/series"):
        answer = wire.ask("GET", f"{target}?" + "&".join(f"a{i}=b" for i in range(5_000)))
        assert answer.status < 500, target


def test_a_range_of_many_parts_costs_nothing(wire: Wire) -> None:
    """CVE-2025-62727: starlette merged them in quadratic time."""
    many = "bytes=" + ",".join(f"{i}-{i}" for i in range(0, 12_000, 2))
    answer = wire.ask("GET", "/static/css/trainyard.css", headers={"range": many})
    assert answer.status in (200, 206, 400, 416)


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """The address of a server with our protocol, in this process, so that its patience can be made short."""
    config = uvicorn.Config(
        application, port=free_port(), http=connection.BoundedProtocol, log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the server")
    try:
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        thread.join(20)


def _speak(url: str, *parts: bytes) -> bytes:
    """All that comes back until the server hangs up; what is sent stays without an end."""
    host = urlsplit(url)
    with socket.create_connection((host.hostname or "", host.port or 0), timeout=30) as connected:
        for part in parts:
            with suppress(ConnectionError):
                connected.sendall(part)
        found = b""
        with suppress(ConnectionError):
            while part := connected.recv(65_536):
                found += part
        return found


async def _hello(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"GET / HTTP/1.1\r\nhost: a\r\n",),
        (b"GET",),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"GET / HTTP/1.1\r\n"),
    ],
    ids=["nothing", "no end", "no line", "the second request"],
)
def test_a_head_without_an_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    with serving(_hello) as url:
        said = _speak(url, *parts)
    assert said.count(b"200 OK") == (len(parts) == 2)


def test_an_answer_that_nobody_reads_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads slowly gets all of it, who reads nothing is cut off: the application is told, and memory is free."""
    monkeypatch.setattr(connection, "UNREAD_S", 1.0)
    ended = threading.Event()

    async def endless(_scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2_000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        ended.set()

    with (
        serving(endless) as url,
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 30) as slow,
    ):
        slow.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        for _ in range(5):
            time.sleep(0.5)
            assert slow.recv(100_000)
            assert not ended.is_set()
        wait_for(ended.is_set, "the end of what nobody reads", 30)


def test_a_huge_head_is_refused_before_it_is_whole() -> None:
    with serving(_hello) as url:
        said = _speak(url, b"GET / HTTP/1.1\r\nhost: a\r\n", *[b"x-a: " + b"b" * 16_000 + b"\r\n"] * 40)
        assert not said or b"431 Request Header Fields Too Large" in said, (
            "it may hang up while we still send"
        )
        assert _speak(url, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )


def test_a_body_without_an_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, migrated_file: Path
) -> None:
    monkeypatch.setattr(security, "BODY_S", 0.5)
    application = create_app(
        Settings(data_dir=migrated_file.parent, database_url=f"sqlite:///{migrated_file}", port=80)
    )
    with serving(application) as url:
        head = b"POST /api/v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        said = _speak(url, head + b"content-length: 99\r\n\r\n{")
    application.state.db.dispose()
    assert said.startswith(b"HTTP/1.1 408")
    assert b"the rest of the body did not come" in said


def test_there_are_no_more_streams_than_there_is_room_for(migrated_file: Path) -> None:
    url = f"sqlite:///{migrated_file}"
    application = create_app(Settings(data_dir=migrated_file.parent, database_url=url, port=80))
    application.state.hub._streams |= {Stream((), {}) for _ in range(MAX_STREAMS)}
    with serving(application) as url, Wire(url) as wire:
        answer = wire.ask("GET", "/api/v1/events", headers={"host": "localhost"})
    application.state.db.dispose()
    assert answer.status == 503, "told before the answer begins"
    assert int(answer.headers["retry-after"]) > 0


# -- what would be SQL -----------------------------------------------------------------------------------------------

INJECTIONS = [
    "' OR '1'='1", "'; DROP TABLE run; --", '"; DROP TABLE run; --', "1; SELECT pg_sleep(5)", "x') UNION SELECT 1 --",
    "$.a' OR 1=1 --", "created; --", "-created DESC, (SELECT 1)", "name COLLATE NOCASE", "spec.'; --", "%", "_", "\\",
    "spec.\"a' OR '1'='1\"", "lr->>'x'", "{a,b}", ":name", "%(name)s", "?", "a\0b", "'" * 999, "((((" * 200,
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_what_would_be_sql_is_text_on_both_databases(db: Database, text: str) -> None:
    with db.begin() as s:
        for name in ("one", "two"):
            runs.create_run(s, runs.NewRun(name=name, spec=None, params={"lr": 0.1}), max_queued=10)
    asks: list[Callable[[], Filter]] = [
        lambda: Filter(experiment=text), lambda: Filter(tag=text), lambda: Filter(text=text),
        lambda: Filter(sort=text), lambda: Filter(sort=f"-{text}"), lambda: Filter(state=[text]),
        lambda: Filter(model=[text]), lambda: Filter(dataset=[text]), lambda: Filter(query=query.parse(text)),
        lambda: Filter(query=query.parse(f"lr = {query.quote(text)}")),
        lambda: Filter(query=query.parse(f'spec."{text}" > 1')),
        lambda: Filter(sort=f'spec."{text}"'), lambda: Filter(query=query.parse(f'"{text}.max" > 1')),
    ]  # fmt: skip
    for ask in asks:
        with suppress(TrainyardError), db.read() as s:
            assert len(listing.list_page(s, ask(), limit=10).rows) <= 2
        with suppress(TrainyardError), db.read() as s:
            listing.list_page(s, Filter(), limit=10, cursor=text)
    with suppress(TrainyardError), db.read() as s:
        runs.get_run(s, text)
    with db.read() as s:
        assert sorted(s.exec(select(Run.name))) == ["one", "two"]
