"""Who may ask what: hosts, origins, tokens and headers, against real web processes."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount, Route

from app.guard import needs_token
from app.main import create_app
from app.settings import Settings
from tests.processes import (
    Stack,
    Web,
    answers,
    free_port,
    migrate,
    redis_server,
    run_command,
    running,
    trainyard_env,
    wait_for,
    web_process,
)

TOKEN = "a-long-token-for-the-tests-0123456789abcdef"
PUBLIC = ("/healthz", "/readyz", "/login", "/language", "/static")


@dataclass(frozen=True)
class Locked:
    """A web process that wants a token."""

    web: Web
    database: Path

    def http(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.web.url, headers=headers, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    directory = tmp_path_factory.mktemp("locked")
    with redis_server(directory) as redis:
        env = trainyard_env(
            directory, broker_url=redis.broker_url, TOKEN=TOKEN, ALLOWED_HOSTS="yard.example,b.example:81"
        )
        migrate(env)
        with web_process(env, directory=directory) as web:
            yield Locked(web, directory / "trainyard.db")


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http as client:
        yield client


def port_of(url: str) -> int:
    port = httpx.URL(url).port
    assert port is not None
    return port


# -- hosts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_our_own_names_are_answered(stack: Stack, http: httpx.Client, host: str) -> None:
    """R2.1"""
    headers = {"host": host.format(port=port_of(stack.url))}
    assert http.get("/api/v1/runs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/api/v1/runs", "/static/css/trainyard.css", "/openapi.json"]
)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "127.0.0.1:{other}", "127.0.0.1", "",
        "localhost:{port}@evil.example", "localhost:{port}.", "0.0.0.0:{port}", "localhost :{port}", "yard.example",
    ],
)  # fmt: skip
def test_other_names_are_refused(stack: Stack, http: httpx.Client, host: str, path: str) -> None:
    """R2.1: exactly those names, port included."""
    port = port_of(stack.url)
    response = http.get(path, headers={"host": host.format(port=port, other=port + 1)})
    assert response.status_code == 400
    if response.headers.get("content-type") == "application/json":
        assert response.json()["error"]["code"] == "bad_host"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("yard.example", 200),
        ("yard.example:9", 200),
        ("b.example:81", 200),
        ("b.example", 400),
        ("b.example:82", 400),
    ],
)
def test_further_names_can_be_allowed(locked: Locked, host: str, status: int) -> None:
    """R2.1"""
    with locked.http(authorization=f"Bearer {TOKEN}") as client:
        assert client.get("/api/v1/runs", headers={"host": host}).status_code == status


# -- other sites' pages --------------------------------------------------------------------------------------

METHODS = ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"]
ORIGINS = [
    "https://evil.example", "http://evil.example:{port}", "null", "http://127.0.0.1:{other}", "https://127.0.0.1:{port}",
    "http://127.0.0.1.evil.example:{port}", "http://localhost:{port}", "", "http://127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("origin", ORIGINS)
def test_an_unsafe_method_from_another_origin_is_refused(
    stack: Stack, http: httpx.Client, method: str, origin: str
) -> None:
    """R2.2: an allow-list of methods, so that an unknown one counts as unsafe."""
    port = port_of(stack.url)
    headers = {"origin": origin.format(port=port, other=port + 1)}
    for path in ("/api/v1/runs", "/api/v1/runs/x", "/nowhere", "/healthz"):
        response = http.request(method, path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "new-value"])
def test_an_unsafe_method_by_another_sites_page_is_refused(
    http: httpx.Client, method: str, site: str
) -> None:
    """R2.2"""
    assert http.request(method, "/api/v1/runs", headers={"sec-fetch-site": site}).status_code == 403


def test_another_sites_page_may_not_read_the_api_either(http: httpx.Client) -> None:
    """R2.3: the event stream too."""
    for path in ("/api/v1/runs", "/api/v1/events", "/api/v1/catalog"):
        assert http.get(path, headers={"sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("method", METHODS)
def test_our_own_page_and_scripts_pass(stack: Stack, http: httpx.Client, method: str) -> None:
    """R2.2"""
    for headers in ({}, {"origin": stack.url}, {"origin": stack.url, "sec-fetch-site": "same-origin"}):
        assert http.request(method, "/nowhere", headers=headers).status_code in (404, 405)


def test_there_are_no_cors_headers(http: httpx.Client) -> None:
    """R2.3"""
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for response in (
        http.options("/api/v1/runs", headers=preflight),
        http.get("/api/v1/runs", headers={"origin": "https://evil.example"}),
        http.get("/"),
    ):
        assert [name for name in response.headers if name.startswith("access-control")] == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_json_in_disguise_is_refused(http: httpx.Client, kind: str | None) -> None:
    """T2 of the threat table (FastAPI CVE-2021-32677)."""
    headers = {"content-type": kind} if kind else {}
    content = b'{"external": true, "name": "disguised"}'
    assert http.post("/api/v1/runs", content=content, headers=headers).status_code == 422
    assert http.get("/api/v1/runs", params={"text": "disguised"}).json()["runs"] == []


# -- tokens --------------------------------------------------------------------------------------------------


def all_routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of everything that answers, mounted applications too."""
    for route in routes:
        path = prefix + getattr(route, "path", "")
        if isinstance(route, Mount):
            yield "GET", f"{path}/x"
            yield from all_routes(route.routes, path)
        elif isinstance(route, Route) or hasattr(route, "methods"):
            for method in sorted(getattr(route, "methods", None) or {"GET"}):
                yield method, path.replace("{", "").replace("}", "")
        elif hasattr(route, "original_router"):  # FastAPI keeps included routers whole
            inner = route.original_router
            yield from all_routes(inner.routes, prefix)
        else:
            raise AssertionError(f"this test does not know the kind of {route!r}; teach it")


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("app"), token=TOKEN))


def test_every_route_wants_the_token(locked: Locked, application: FastAPI) -> None:
    """R1.1"""
    routes = sorted(set(all_routes(application.router.routes)))
    assert ("POST", "/api/v1/runs") in routes
    assert ("GET", "/api/v1/events") in routes
    assert len(routes) > 30
    with locked.http() as client, locked.http(accept="text/html") as browser:
        for method, path in [
            *routes,
            ("GET", "/openapi.json"),
            ("GET", "/nowhere"),
            ("PROPFIND", "/api/v1/runs"),
        ]:
            answer, page = client.request(method, path), browser.request(method, path)
            if path.startswith(PUBLIC):
                answers = method == "POST" and path in ("/login", "/language")
                assert answers or page.status_code in (200, 404, 405), (method, path)
                continue
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert page.status_code == 303, (method, path)
            assert page.headers["location"].startswith("/login?next=")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../api/v1/runs",
        "/static/..%2fapi/v1/runs",
        "//api/v1/runs",
        "/login/../api/v1/runs",
        "/healthz/",
    ],
)
def test_a_public_path_opens_no_other(locked: Locked, path: str) -> None:
    """R1.1"""
    with locked.http() as client:
        response = client.send(client.build_request("GET", locked.web.url + path))
    assert response.status_code in (401, 404, 307)
    assert "runs" not in response.text


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xe9\xff",
    ],
)
def test_a_wrong_token_is_none(locked: Locked, authorization: str) -> None:
    """R1.3"""
    with locked.http() as client:
        headers = [(b"authorization", authorization.encode("latin-1"))]
        assert client.get("/api/v1/runs", headers=headers).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens(locked: Locked, scheme: str) -> None:
    """R1.3"""
    with locked.http(authorization=f"{scheme} {TOKEN}") as client:
        assert client.get("/api/v1/runs").status_code == 200
        assert client.post("/api/v1/runs", json={"external": True}).status_code == 201


def signed_in(locked: Locked) -> str:
    """The value of a session's cookie."""
    with locked.http() as client:
        answer = client.post("/login", data={"token": TOKEN})
    assert answer.status_code == 303
    return str(client.cookies["trainyard_session"])


def test_the_session_cookie_opens_and_a_forged_one_does_not(locked: Locked) -> None:
    """R2.4"""
    value = signed_in(locked)
    token_id, expires, signature = value.split(".")
    forged = (
        f"{token_id}.{int(expires) + 1}.{signature}",
        f"{token_id}.{expires}.{signature[::-1]}",
        f"{token_id}.{expires}.",
        f"{token_id}.{expires}",
        f".{expires}.{signature}",
        f"{token_id}.\u00b2.{signature}".encode("latin-1").decode("latin-1"),
        f"{token_id}.{'9' * 400}.{signature}",
        "9999999999.00",
        'a;b="',
        "",
    )
    for text, status in ((value, 200), *((one, 401) for one in forged)):
        with locked.http() as client:
            headers = [(b"cookie", f"trainyard_session={text}".encode("latin-1"))]
            assert client.get("/api/v1/runs", headers=headers).status_code == status, text


# -- headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {}), ("GET", "/api/v1/runs", {}), ("GET", "/nowhere", {}),
        ("GET", "/nowhere", {"accept": "text/html"}), ("GET", "/", {"host": "evil.example"}),
        ("POST", "/api/v1/runs", {}), ("POST", "/api/v1/runs", {"origin": "null"}),
        ("GET", "/static/css/trainyard.css", {}), ("GET", "/static/plotly/plotly.min.js", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/api/v1/runs?sort=x", {}), ("PUT", "/", {}),
    ],
)  # fmt: skip
def test_every_answer_has_the_headers(
    http: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    """R2.5"""
    response = http.request(method, path, headers=headers)
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "same-origin"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in response.headers


def test_even_a_crash_has_them_and_tells_nothing(tmp_path: Path, migrated_file: Path) -> None:
    """R10.1"""
    shutil.copy(migrated_file, tmp_path / "trainyard.db")
    application = create_app(Settings(data_dir=tmp_path, port=80))

    @application.get("/crash")
    def crash() -> None:
        raise KeyError("a secret of the inside")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/crash")

    response = asyncio.run(ask())
    application.state.db.dispose()
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "secret" not in response.text
    assert response.headers["x-frame-options"] == "DENY"


# -- reading changes nothing ---------------------------------------------------------------------------------


def dump(database: Path) -> list[str]:
    connection = sqlite3.connect(database)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_get_changes_nothing(locked: Locked, application: FastAPI) -> None:
    """R2.3"""
    with locked.http(authorization=f"Bearer {TOKEN}") as client:
        run_id = client.post("/api/v1/runs", json={"external": True, "name": "still"}).json()["id"]
        client.post(f"/api/v1/runs/{run_id}/metrics", json={"step": [1], "values": {"train/loss": [1.0]}})
        before = dump(locked.database)
        paths = {path for method, path in all_routes(application.router.routes) if method == "GET"}
        assert len(paths) > 15
        for path in sorted(paths):
            for query in ("", f"?run={run_id}"):
                url = path.replace("run_id", run_id).replace("name", "lenet") + query
                for method in ("GET", "HEAD", "OPTIONS"):
                    with client.stream(method, url) as response:
                        assert response.status_code < 500, url
    assert dump(locked.database) == before


# -- starting ------------------------------------------------------------------------------------------------


def start(tmp_path: Path, **settings: str) -> tuple[int, str]:
    env = trainyard_env(tmp_path, PORT=str(free_port()), **settings)
    ended = run_command([sys.executable, "-m", "app"], env=env)
    return ended.returncode, ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_loopback_it_does_not_start_without_a_token(tmp_path: Path, host: str) -> None:
    """R1.2"""
    code, said = start(tmp_path, HOST=host)
    assert code == 1
    assert f"refusing to listen on {host} without a token" in said
    assert "TRAINYARD_TOKEN" in said
    assert "Traceback" not in said


def test_a_weak_token_is_refused(tmp_path: Path) -> None:
    """R1.3"""
    code, said = start(tmp_path, HOST="0.0.0.0", TOKEN="0123456789abcde")
    assert code == 1
    assert "too short" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_by_default_it_listens_on_this_machine_alone(host: str) -> None:
    """R1.2"""
    assert Settings().host == "127.0.0.1"
    assert needs_token(host, is_wanted=False) is None


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "yard.example", "localhost.evil.example", ""]
)
def test_every_other_address_needs_a_token(host: str) -> None:
    """R1.2"""
    said = needs_token(host, is_wanted=False)
    assert said is not None
    assert "trainyard token create" in said
    assert needs_token(host, is_wanted=True) is None


# -- secrets stay secret -------------------------------------------------------------------------------------

DATABASE_PASSWORD = "pass-of-the-database"
BROKER_PASSWORD = "pass-of-the-broker"


def modes(directory: Path) -> dict[str, str]:
    return {
        path.name: stat.filemode(path.stat().st_mode)
        for path in [directory, *directory.glob("trainyard.db*")]
    }


def test_the_data_directory_is_its_owners_alone(tmp_path: Path) -> None:
    """R10.1: also where it and the database were there before, open to others, under a lax umask."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o755)
    (directory / "trainyard.db").touch(mode=0o644)
    with redis_server(tmp_path) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url)
        ended = run_command(["sh", "-c", f"umask 0; exec {sys.executable} -m app.migrate"], env=env)
        assert ended.returncode == 0, ended.stderr
        with web_process(env, directory=tmp_path) as web:
            httpx.post(f"{web.url}/api/v1/runs", json={"external": True}, trust_env=False).raise_for_status()
            found = modes(directory)
    assert found.pop("data") == "drwx------"
    assert len(found) == 3  # the database and its journals
    assert set(found.values()) == {"-rw-------"}


def test_secrets_are_in_no_log_answer_or_process_title(tmp_path: Path) -> None:
    """R10.1: after every failure that has to do with one: a database and a broker that are not there, wrong tokens."""
    port, gone = free_port(), free_port()
    password = "a password that somebody mistyped"
    env = trainyard_env(
        tmp_path,
        database_url=f"postgresql://yard:{DATABASE_PASSWORD}@127.0.0.1:{gone}/yard",
        broker_url=f"redis://:{BROKER_PASSWORD}@127.0.0.1:{gone}/0",
        TOKEN=TOKEN,
        PORT=str(port),
        LOG_LEVEL="debug",
    )
    said = run_command([sys.executable, "-m", "app.migrate"], env=env)
    listed = run_command([sys.executable, "-m", "app.token_command", "list"], env=env)
    texts = [said.stdout, said.stderr, listed.stdout, listed.stderr]
    assert (said.returncode, listed.returncode) == (1, 1)
    with running("web", [sys.executable, "-m", "app"], directory=tmp_path, env=env) as process:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/healthz"), "the web process", process=process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
            for headers in ({"authorization": f"Bearer {TOKEN}"}, {"authorization": f"Bearer {TOKEN}x"}, {}):
                for path in ("/readyz", "/api/v1/runs", "/api/v1/catalog", "/", "/nowhere", "/openapi.json"):
                    for accept in ("text/html", "application/json"):
                        answer = http.get(path, headers={**headers, "accept": accept})
                        texts += [answer.text, *answer.headers.values()]
            signed_in = http.post("/login", data={"name": "carol", "token": password})
            texts += [*signed_in.headers.values(), signed_in.text]
        title = Path(f"/proc/{process.pid}/cmdline").read_text()
        texts += [title]
    texts += [path.read_text(errors="replace") for path in tmp_path.rglob("*.log")]
    assert any("the database cannot be reached" in text for text in texts)
    for secret in (DATABASE_PASSWORD, BROKER_PASSWORD, TOKEN, password):
        assert [text for text in texts if secret in text] == [], secret


def test_settings_tell_no_secret_when_they_are_printed(tmp_path: Path) -> None:
    """R10.1"""
    settings = Settings(
        data_dir=tmp_path,
        token=TOKEN,
        database_url=f"postgresql://yard:{DATABASE_PASSWORD}@h/yard",
        broker_url=f"redis://:{BROKER_PASSWORD}@h/0",
    )
    for text in (repr(settings), str(settings)):
        assert not any(secret in text for secret in (TOKEN, DATABASE_PASSWORD, BROKER_PASSWORD))
