"""Tokens, passwords, sessions and scopes: who may do what, and that it ends when it is taken back.

Web processes, database and command line are real; only what counts guesses by the clock is handed its time.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app import passwords, scopes, tokens
from app.access import SESSION_S, Access
from app.db import Database
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.guesses import MAX_ADDRESSES, MAX_WRONG, WINDOW_S, Guesses
from app.main import create_app
from app.scopes import Scope
from app.settings import Settings
from tests.processes import (
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
from tests.test_security import all_routes

PASSWORD = "four words are enough"
SOON_S = 10.0  # a change is seen within two seconds; a busy machine gets more


@dataclass(frozen=True)
class Lab:
    """Two web processes on one database, which has a token for each scope and a password."""

    web: Web
    other: Web
    directory: Path
    env: dict[str, str]
    secrets: dict[str, str]

    def http(
        self, who: str | None = None, web: Web | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Client:
        """A client at an address of its own, so that no wrong guess of one test slows another."""
        token = {"authorization": f"Bearer {self.secrets[who]}"} if who else {}
        address = {"x-forwarded-for": f"198.18.{secrets.randbelow(256)}.{secrets.randbelow(256)}"}
        url = (web or self.web).url
        return httpx.Client(
            base_url=url, headers={**address, **token, **(headers or {})}, trust_env=False, timeout=30
        )

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = Database(f"sqlite:///{self.directory / 'trainyard.db'}")
        try:
            yield database
        finally:
            database.dispose()

    def make(self, name: str, scope: Scope, days: float | None = None) -> tokens.Made:
        """A new token, known to both processes."""
        with self.database() as database, database.begin() as s:
            made = tokens.create_token(s, name, scope, "tests", days)
        self.secrets[name] = made.secret
        for web in (self.web, self.other):
            wait_for(lambda web=web: self.status(name, web) != 401, f"{name} to be known", SOON_S)  # type: ignore[misc]
        return made

    def status(self, who: str, web: Web | None = None, path: str = "/api/v1/queue") -> int:
        with self.http(who, web) as client:
            return client.get(path).status_code

    def sign_in(self, secret: str, name: str = "", web: Web | None = None) -> httpx.Response:
        with self.http(web=web) as client:
            return client.post("/login", data={"token": secret, "name": name, "next": "/workers"})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    with redis_server(directory) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url, TRUSTED_PROXIES="127.0.0.1")
        migrate(env)
        made: dict[str, str] = {}
        database = Database(f"sqlite:///{directory / 'trainyard.db'}")
        with database.begin() as s:
            for scope in Scope:
                made[scope] = tokens.create_token(s, scope, scope, "tests").secret
            tokens.set_password(s, "carol", Scope.SUBMIT, PASSWORD, "tests")
        database.dispose()
        with (
            web_process(env, directory=directory) as web,
            web_process(env, directory=directory) as other,
        ):
            yield Lab(web, other, directory, env, made)


# -- scopes, route by route ----------------------------------------------------------------------------------

# Written here once more: a route that is added to the application and not here must be for administrators.
MAY_SUBMIT = {
    "POST /new", "POST /presets/name", "POST /compare/match", "POST /bulk", "POST /runs/run_id/edit",
    "POST /runs/run_id/cancel", "POST /runs/run_id/pause", "POST /runs/run_id/resume", "POST /runs/run_id/clone",
    "POST /api/v1/runs", "POST /api/v1/runs/bulk", "POST /api/v1/experiments", "PATCH /api/v1/runs/run_id",
    "POST /api/v1/runs/run_id/cancel", "POST /api/v1/runs/run_id/pause", "POST /api/v1/runs/run_id/resume",
    "POST /new/preflight", "POST /api/v1/preflight",
    "POST /api/v1/runs/run_id/clone", "POST /api/v1/runs/run_id/finish", "POST /api/v1/runs/run_id/metrics",
}  # fmt: skip
FOR_ALL = {"POST /login", "POST /language"}
ADMIN_READS = {"GET /tokens", "GET /api/v1/tokens"}


def needed(method: str, path: str) -> Scope | None:
    """What a request needs by this file; None: nothing."""
    name = f"{method} {path}"
    if name in FOR_ALL or path.startswith(("/static/", "/healthz", "/readyz", "/login")):
        return None
    if method in ("GET", "HEAD", "OPTIONS") or name == "POST /logout":
        return Scope.ADMIN if name in ADMIN_READS else Scope.READ
    return Scope.SUBMIT if name in MAY_SUBMIT else Scope.ADMIN


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    application: FastAPI = create_app(Settings(data_dir=tmp_path_factory.mktemp("routes")))
    found = sorted(set(all_routes(application.router.routes)))
    application.state.db.dispose()
    unlisted = [
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("POST", "/nowhere"),
        ("PROPFIND", "/api/v1/runs"),
    ]
    return [*found, *unlisted]


@pytest.mark.parametrize("who", [None, *Scope])
def test_every_route_asks_for_its_scope(lab: Lab, routes: list[tuple[str, str]], who: Scope | None) -> None:
    """R1.1: each route times each scope, mounted applications, event stream, static files and documents too."""
    assert len(routes) > 60
    paths = {path for _method, path in routes}
    assert {"/api/v1/events", "/docs", "/openapi.json", "/metrics", "/tokens", "/static/plotly/x"} <= paths
    wrong = []
    with lab.http(who) as client:
        for method, path in routes:
            scope = needed(method, path)
            with client.stream(method, path) as response:
                status = response.status_code
            expected = (
                "yes"
                if scope is None or (who is not None and who.covers(scope))
                else 401
                if who is None
                else 403
            )
            got: object = status if status in (401, 403) else "yes" if status < 500 else status
            if (method, path) == ("POST", "/login"):
                got = "yes" if status == 401 else status  # the form's own answer to a wrong token
            if got != expected:
                wrong.append((method, path, expected, status))
    assert not wrong


def test_a_name_belongs_to_one_address(tmp_path: Path) -> None:
    """Templates ask for addresses by name: a page's form must not find the API's route of the same name."""
    application = create_app(Settings(data_dir=tmp_path))
    application.state.db.dispose()
    routers = [getattr(route, "original_router", None) for route in application.router.routes]
    names = [route.name for router in routers if router is not None for route in router.routes]
    assert len(names) > 50
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_what_may_be_submitted_is_there(routes: list[tuple[str, str]]) -> None:
    there = {f"{method} {path}" for method, path in routes}
    listed = {f"{method} {path.replace('{', '').replace('}', '')}" for method, path in scopes.SUBMIT_ROUTES}
    assert listed == MAY_SUBMIT
    assert there >= MAY_SUBMIT | FOR_ALL | ADMIN_READS


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/api/v1/runs/a/b/cancel", Scope.ADMIN),
        ("POST", "/api/v1/runs/a/cancel/", Scope.ADMIN),
        ("POST", "/API/v1/runs", Scope.ADMIN),
        ("POST", "//api/v1/runs", Scope.ADMIN),
        ("post", "/api/v1/runs", Scope.ADMIN),
        ("POST", "/api/v1/runs\n", Scope.ADMIN),
        ("DELETE", "/api/v1/runs/a", Scope.ADMIN),
        ("GET", "/tokens/x", Scope.ADMIN),
        ("HEAD", "/api/v1/tokens", Scope.ADMIN),
        ("GET", "/", Scope.READ),
    ],
)
def test_what_is_not_known_is_for_administrators(method: str, path: str, scope: Scope) -> None:
    assert scopes.needed_scope(method, path) is scope
    assert not scopes.is_public(method, path)


def test_a_refusal_names_the_scope(lab: Lab) -> None:
    with lab.http("read") as client:
        answer = client.post("/api/v1/runs", json={"external": True})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "forbidden"
    assert answer.json()["error"]["message"].startswith(
        "this needs the scope submit; your token has the scope read"
    )


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", ("Not allowed", "needs the scope admin")), ("zh", ("不允许", "这需要权限 admin"))],
)
def test_a_refused_page_says_which_scope_it_needs(lab: Lab, language: str, words: tuple[str, ...]) -> None:
    with lab.http("submit", headers={"accept": "text/html", "accept-language": language}) as client:
        page = client.get("/tokens")
    assert page.status_code == 403
    assert page.headers["content-type"].startswith("text/html")
    for word in words:
        assert word in page.text


def test_deleting_in_bulk_needs_admin_as_deleting_one_by_one_does(lab: Lab) -> None:
    def send(who: str, **body: Any) -> int:
        with lab.http(who) as client:
            return client.post("/api/v1/runs/bulk", json={"runs": ["gone"], **body}).status_code

    assert send("submit", action="delete") == 403
    assert send("submit", action="cancel") == 200
    assert send("admin", action="delete") == 200
    for who, status in (("submit", 403), ("admin", 200)):
        with lab.http(who) as client:
            posted = client.post("/bulk", data={"run": "gone", "action": "delete"})
            assert posted.status_code == status


def test_readiness_tells_strangers_no_reasons(lab: Lab) -> None:
    with lab.http() as stranger, lab.http("read") as reader:
        assert stranger.get("/readyz").json() == {"status": "ready"}
        assert reader.get("/readyz").json()["checks"]["database"] == "ok"


# -- who did it ----------------------------------------------------------------------------------------------


def test_events_of_a_run_tell_whose_token_it_was(lab: Lab) -> None:
    lab.make("alice", Scope.SUBMIT)
    with lab.http("alice") as alice, lab.http("admin") as admin:
        spec = {"model": "lenet", "dataset": "digits"}
        run_id = alice.post("/api/v1/runs", json={"spec": spec}).json()["id"]
        assert admin.post(f"/api/v1/runs/{run_id}/cancel").status_code == 200
        events = alice.get(f"/api/v1/runs/{run_id}").json()["events"]
        assert [event["actor"] for event in events] == ["alice", "admin"]
        assert "(by alice)" in alice.get(f"/runs/{run_id}").text


# -- secrets -------------------------------------------------------------------------------------------------


def test_tokens_are_random_and_only_their_hashes_are_stored(lab: Lab) -> None:
    """R1.3"""
    made = lab.make("stored", Scope.READ)
    assert made.secret.startswith("ty_")
    assert len(made.secret) == len("ty_") + 43  # 256 bits in base 64
    assert made.token.digest == tokens.digest_of(made.secret)
    stored = b"".join(path.read_bytes() for path in lab.directory.glob("trainyard.db*"))
    assert made.token.digest.encode() in stored
    for secret in (made.secret.encode(), made.secret[10:].encode(), PASSWORD.encode()):
        assert secret not in stored


def test_secrets_are_compared_in_constant_time(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """R1.3"""
    compared: list[tuple[Any, Any]] = []
    honest = hmac.compare_digest

    def spy(one: Any, two: Any) -> bool:
        compared.append((one, two))
        return bool(honest(one, two))

    with db.begin() as s:
        made = tokens.create_token(s, "alice", Scope.READ, "tests")
        tokens.set_password(s, "bob", Scope.READ, PASSWORD, "tests")
    access = Access(db, "an-environment-token", beyond=False)
    access.refresh()
    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert access.by_token(made.secret, 0)
    assert access.by_token("an-environment-token", 0)
    assert not access.by_token("wrong", 0)
    assert len(compared) == 3
    assert access.by_password("bob", PASSWORD, 0)
    assert not access.by_password("bob", PASSWORD + "!", 0)
    assert len(compared) == 5
    caller = access.by_token(made.secret, 0)
    assert caller
    value, _good_for_s = access.open_session(caller, 0)
    compared.clear()
    assert access.by_session(value, 1)
    assert len(compared) == 1


def test_one_name_one_token(db: Database) -> None:
    with db.begin() as s:
        first = tokens.create_token(s, "alice", Scope.READ, "tests").token
    with db.begin() as s, pytest.raises(Conflict, match="revoke it first"):
        tokens.create_token(s, " alice ", Scope.READ, "tests")
    with db.begin() as s:
        tokens.set_password(s, "alice", Scope.READ, PASSWORD, "tests")
        tokens.revoke(s, [tokens.get_token(s, first.id)])
    with db.begin() as s:
        tokens.create_token(s, "alice", Scope.READ, "tests")
        assert {token.kind for token in tokens.find_named(s, "alice")} == {"token", "password"}
        with pytest.raises(NotFound, match="no token or password 'bob'"):
            tokens.find_named(s, "bob")


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\nb", "user", "User", "a\x1b[31m", "\ud800"])
def test_a_bad_name_is_refused(db: Database, name: str) -> None:
    with db.begin() as s, pytest.raises(Invalid) as caught:
        tokens.create_token(s, name, Scope.READ, "tests")
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    "password",
    ["", "short", "fourteen chars", "a" * 30, "abababababababab", "alicealicealicealice", "x" * 201],
)
def test_a_weak_password_is_refused(password: str) -> None:
    with pytest.raises(Invalid):
        passwords.check_strength(password, "alice")


def test_a_password_is_salted_and_slow() -> None:
    one, two = passwords.hash_password(PASSWORD), passwords.hash_password(PASSWORD)
    assert one != two
    assert one.startswith("scrypt$16384$8$5$")
    assert passwords.verify_password(PASSWORD, one)
    assert not passwords.verify_password(PASSWORD.upper(), one)
    assert not passwords.verify_password(PASSWORD, None)


# -- sessions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_cookie_is_for_this_site_and_no_script(lab: Lab, scheme: str, secure: bool) -> None:
    """R2.4; the proxy at 127.0.0.1 is trusted to say that the browser came by https."""
    with lab.http(headers={"x-forwarded-proto": scheme, "x-forwarded-for": "192.0.2.7"}) as client:
        answer = client.post("/login", data={"token": lab.secrets["read"]})
    assert answer.status_code == 303
    parts = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert ("secure" in parts) is secure


def test_behind_https_our_own_page_passes(lab: Lab) -> None:
    """R2.2: the origin is the one that the browser sees."""
    host = httpx.URL(lab.web.url).netloc.decode()
    with lab.http("submit", headers={"x-forwarded-proto": "https", "cookie": "a=b"}) as client:
        for origin, status in ((f"https://{host}", 422), (f"http://{host}", 403)):
            assert client.post("/api/v1/runs", json={}, headers={"origin": origin}).status_code == status


def test_signing_in_with_a_password_needs_the_name(lab: Lab) -> None:
    for name, secret, status in (
        ("carol", PASSWORD, 303),
        ("Carol", PASSWORD, 401),
        ("", PASSWORD, 401),
        ("carol", PASSWORD + "!", 401),
        ("nobody", PASSWORD, 401),
        ("carol", lab.secrets["read"], 303),  # a token needs no name, and minds none
    ):
        assert lab.sign_in(secret, name).status_code == status, (name, secret)
    with lab.http(headers={"authorization": f"Bearer {PASSWORD}"}) as client:
        assert client.get("/api/v1/queue").status_code == 401  # a password is for people


def test_a_session_is_good_in_every_process_and_has_its_tokens_scope(lab: Lab) -> None:
    value = lab.sign_in(PASSWORD, "carol").cookies["trainyard_session"]
    for web in (lab.web, lab.other):
        with lab.http(web=web, headers={"cookie": f"trainyard_session={value}"}) as client:
            wait_for(lambda c=client: c.get("/api/v1/queue").status_code == 200, "the session", SOON_S)  # type: ignore[misc]
            assert client.post("/api/v1/runs", json={"external": True}).status_code == 201
            assert client.get("/api/v1/tokens").status_code == 403


def test_who_sends_a_token_means_the_token(lab: Lab) -> None:
    cookie = f"trainyard_session={lab.sign_in(lab.secrets['admin']).cookies['trainyard_session']}"
    with lab.http("read", headers={"cookie": cookie}) as client:
        assert client.get("/api/v1/tokens").status_code == 403
    with lab.http(headers={"authorization": "Bearer wrong", "cookie": cookie}) as client:
        assert client.get("/api/v1/queue").status_code == 401
    with lab.http(headers={"authorization": "Basic abc", "cookie": cookie}) as client:
        assert client.get("/api/v1/queue").status_code == 200  # for a proxy before us, which passed it on


def test_signing_out_takes_the_cookie_away(lab: Lab) -> None:
    with lab.http() as client:
        client.post("/login", data={"token": lab.secrets["read"]})
        assert client.get("/workers").status_code == 200
        assert client.post("/logout").headers["location"] == "/login"
        assert client.get("/workers").status_code == 401


def test_signing_in_comes_back_to_the_whole_address(lab: Lab) -> None:
    with lab.http(headers={"accept": "text/html"}) as client:
        asked = client.get("/compare", params=[("run", "a"), ("run", "b")])
        assert asked.headers["location"] == "/login?next=%2Fcompare%3Frun%3Da%26run%3Db"
        target = httpx.URL(asked.headers["location"]).params["next"]
        done = client.post("/login", data={"token": lab.secrets["read"], "next": target})
        assert done.headers["location"] == "/compare?run=a&run=b"


# -- taken back ----------------------------------------------------------------------------------------------


def test_a_revoked_token_opens_nothing_any_more_anywhere(lab: Lab) -> None:
    made = lab.make("leaver", Scope.READ)
    cookie = f"trainyard_session={lab.sign_in(made.secret).cookies['trainyard_session']}"
    with lab.http("leaver", lab.other) as script, lab.http(web=lab.other, headers={"cookie": cookie}) as page:
        wait_for(lambda: page.get("/api/v1/queue").status_code == 200, "the session", SOON_S)
        with script.stream("GET", "/api/v1/events") as stream, lab.http("admin") as admin:
            assert stream.status_code == 200
            assert admin.delete(f"/api/v1/tokens/{made.token.id}").status_code == 204
            assert lab.status("leaver") == 401  # at once where it was revoked
            wait_for(lambda: lab.status("leaver", lab.other) == 401, "the other process to know", SOON_S)
            for _event in stream.iter_raw():  # the open stream ends too, in good order
                pass
        assert page.get("/api/v1/queue").status_code == 401
        assert page.get("/workers", headers={"accept": "text/html"}).status_code == 303
    assert lab.sign_in(made.secret).status_code == 401


def test_an_expired_token_opens_nothing(lab: Lab) -> None:
    """Its session does not outlive it."""
    made = lab.make("guest", Scope.READ, days=6 / 86_400)
    signed_in = lab.sign_in(made.secret)
    assert signed_in.status_code == 303
    max_age = next(part for part in signed_in.headers["set-cookie"].split("; ") if part.startswith("Max-Age"))
    assert 0 < int(max_age.partition("=")[2]) <= 6
    cookie = f"trainyard_session={signed_in.cookies['trainyard_session']}"
    wait_for(lambda: lab.status("guest") == 401, "the token to expire", 30)
    with lab.http(headers={"cookie": cookie}) as client:
        assert client.get("/api/v1/queue").status_code == 401


def test_a_new_password_ends_the_sessions_of_the_old_one(db: Database) -> None:
    access = Access(db, "", beyond=False)
    with db.begin() as s:
        tokens.set_password(s, "dora", Scope.READ, PASSWORD, "tests")
    access.refresh()
    caller = access.by_password("dora", PASSWORD, time.time())
    assert caller
    value, _good_for_s = access.open_session(caller, time.time())
    assert access.by_session(value, time.time())
    with db.begin() as s:
        assert tokens.set_password(s, "dora", None, PASSWORD + " more", "tests").scope == "read"
    access.refresh()
    assert access.by_session(value, time.time()) is None
    assert access.by_password("dora", PASSWORD, time.time()) is None


def test_processes_share_the_key_of_sessions(db: Database) -> None:
    """On SQLite and Postgres: what one signs, another knows, also when both made the key at once."""
    with db.begin() as s:
        tokens.create_token(s, "alice", Scope.READ, "tests")
    one, two = (Access(db, "an-environment-token", beyond=False) for _ in range(2))
    for access in (one, two):
        access.refresh()
    caller = one.by_token("an-environment-token", 0)
    assert caller
    value, good_for_s = one.open_session(caller, 1_000)
    assert good_for_s == SESSION_S
    two.refresh()
    assert two.by_session(value, 1_001)
    assert two.by_session(value, 1_000 + good_for_s) is None
    other = Access(db, "another-environment-token", beyond=False)
    other.refresh()
    assert other.by_session(value, 1_001) is None  # TRAINYARD_TOKEN was changed


def test_a_session_of_a_token_that_was_just_revoked_is_not_opened(db: Database) -> None:
    with db.begin() as s:
        made = tokens.create_token(s, "alice", Scope.READ, "tests")
    access = Access(db, "", beyond=False)
    access.refresh()
    caller = access.by_token(made.secret, 0)
    assert caller
    with db.begin() as s:
        tokens.revoke(s, [tokens.get_token(s, made.token.id)])
    with pytest.raises(Forbidden, match="revoked a moment ago"):
        access.open_session(caller, 0)


def test_knowing_who_somebody_is_asks_no_database(db: Database) -> None:
    with db.begin() as s:
        made = tokens.create_token(s, "alice", Scope.READ, "tests")
    access = Access(db, "", beyond=False)
    access.refresh()
    caller = access.by_token(made.secret, 0)
    assert caller
    value, _good_for_s = access.open_session(caller, 0)
    asked: list[str] = []
    db.begin = db.read = lambda: asked.append("asked")  # type: ignore[assignment, method-assign, return-value]
    for _ in range(1_000):
        assert access.by_token(made.secret, 0)
        assert access.by_session(value, 0)
        assert not access.by_token(secrets.token_urlsafe(), 0)
        assert access.is_wanted
    assert not asked


def test_when_a_token_was_last_used_is_written_now_and_then(db: Database) -> None:
    with db.begin() as s:
        made = tokens.create_token(s, "alice", Scope.READ, "tests")
    access = Access(db, "", beyond=False)
    access.refresh()

    def last_used() -> float | None:
        with db.read() as s:
            return tokens.get_token(s, made.token.id).last_used_at

    for at, written in ((1_000.0, 1_000.0), (1_030.0, 1_000.0), (1_061.0, 1_061.0), (1_062.0, 1_061.0)):
        assert access.by_token(made.secret, at)
        access.tick()
        assert last_used() == written


# -- when nobody needs a token -------------------------------------------------------------------------------


def test_from_the_first_token_on_everybody_needs_one(tmp_path: Path) -> None:
    """On this machine alone a fresh server is open; the command line opens and closes it, whoever is locked out."""
    with redis_server(tmp_path) as redis:
        env = trainyard_env(tmp_path, broker_url=redis.broker_url)
        migrate(env)
        with (
            web_process(env, directory=tmp_path) as web,
            httpx.Client(base_url=web.url, trust_env=False) as http,
        ):
            assert http.get("/api/v1/queue").status_code == 200
            refused = http.post("/api/v1/tokens", json={"name": "x", "scope": "submit"})
            assert refused.status_code == 422
            assert refused.json()["error"]["field"] == "scope"
            other = {"origin": "https://evil.example", "authorization": "Bearer x"}
            assert http.post("/api/v1/runs", json={"external": True}, headers=other).status_code == 403

            first = http.post("/tokens", data={"name": "me", "scope": "read", "days": "7"})
            assert first.status_code == 201
            assert http.get("/api/v1/tokens").json()["tokens"][0]["scope"] == "admin"  # signed in on the way
            with httpx.Client(base_url=web.url, trust_env=False) as stranger:
                assert stranger.get("/api/v1/queue").status_code == 401
                assert manage(env, "token", "revoke", "me").returncode == 0
                wait_for(lambda: http.get("/api/v1/queue").status_code == 401, "it to be revoked", SOON_S)
                assert stranger.get("/api/v1/queue").status_code == 401  # the last one gone opens nothing
                assert manage(env, "token", "clear", "--yes").returncode == 0
                wait_for(lambda: stranger.get("/api/v1/queue").status_code == 200, "it to be open", SOON_S)


# -- guesses -------------------------------------------------------------------------------------------------


def test_wrong_tokens_are_slowed_down_by_address_and_right_ones_never(lab: Lab) -> None:
    """R1.3"""

    def guess(address: str, web: Web = lab.other) -> httpx.Response:
        headers = {"authorization": f"Bearer {secrets.token_hex()}", "x-forwarded-for": address}
        return httpx.get(f"{web.url}/api/v1/queue", headers=headers, trust_env=False, timeout=30)

    statuses = [guess("192.0.2.1").status_code for _ in range(MAX_WRONG + 1)]
    assert statuses == [401] * MAX_WRONG + [429]
    slowed = guess("192.0.2.1")
    assert slowed.json()["error"]["code"] == "too_many"
    assert 0 < int(slowed.headers["retry-after"]) <= WINDOW_S
    assert guess("192.0.2.2").status_code == 401
    with lab.http("read", lab.other, headers={"x-forwarded-for": "192.0.2.1"}) as client:
        assert client.get("/api/v1/queue").status_code == 200


def test_signing_in_is_slowed_down_even_with_the_right_token(lab: Lab) -> None:
    """R1.3: else the limit would tell which guess was right."""
    with lab.http(web=lab.other, headers={"x-forwarded-for": "192.0.2.3"}) as client:
        statuses = [
            client.post("/login", data={"token": secrets.token_hex()}).status_code
            for _ in range(MAX_WRONG + 1)
        ]
        assert statuses == [401] * MAX_WRONG + [429]
        right = client.post("/login", data={"token": lab.secrets["read"]})
        assert right.status_code == 429
        assert "set-cookie" not in right.headers
        assert 0 < int(right.headers["retry-after"]) <= WINDOW_S
        assert client.get(
            "/api/v1/queue", headers={"authorization": f"Bearer {lab.secrets['read']}"}
        ).is_success


def test_an_address_may_guess_again_after_a_minute() -> None:
    guesses = Guesses()
    for i in range(MAX_WRONG):
        assert guesses.wait_s("192.0.2.1", i) == 0
        guesses.count("192.0.2.1", i)
    assert guesses.wait_s("192.0.2.1", MAX_WRONG) == WINDOW_S - MAX_WRONG
    assert guesses.wait_s("192.0.2.1", WINDOW_S) == 0
    guesses.count("192.0.2.1", WINDOW_S)
    assert guesses.wait_s("192.0.2.1", WINDOW_S) == 1


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
    ],
)
def test_addresses_of_one_host_count_together(one: str, two: str, same: bool) -> None:
    guesses = Guesses()
    for _ in range(MAX_WRONG):
        guesses.count(one, 0)
    assert (guesses.wait_s(two, 1) > 0) is same


def test_guesses_of_many_addresses_take_bounded_memory() -> None:
    guesses = Guesses()
    for i in range(3 * MAX_ADDRESSES):
        guesses.count(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", i)
    assert len(guesses._wrong) == MAX_ADDRESSES


def test_forwarded_addresses_are_believed_from_trusted_proxies_only(tmp_path: Path) -> None:
    """Else every guess could come from an address of its own, and cookies could lose `Secure`."""
    token = "a-long-token-for-the-tests"
    with redis_server(tmp_path) as redis:
        env = trainyard_env(tmp_path, broker_url=redis.broker_url, TOKEN=token)
        migrate(env)
        with (
            web_process(env, directory=tmp_path) as web,
            httpx.Client(base_url=web.url, trust_env=False) as http,
        ):
            statuses = []
            for i in range(MAX_WRONG + 1):
                headers = {"x-forwarded-for": f"192.0.2.{i}", "x-forwarded-proto": "https"}
                statuses.append(http.post("/login", data={"token": "wrong"}, headers=headers).status_code)
            assert statuses == [401] * MAX_WRONG + [429]


# -- other sites' pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_another_site_cannot_sign_anybody_in_or_out(lab: Lab, headers: dict[str, str]) -> None:
    """R2.2: login CSRF."""
    with lab.http(headers=headers) as client:
        for path in ("/login", "/logout", "/language"):
            answer = client.post(path, data={"token": lab.secrets["admin"], "to": "zh"})
            assert answer.status_code == 403
            assert "set-cookie" not in answer.headers


def test_a_bearer_token_alone_needs_no_origin_of_ours(lab: Lab) -> None:
    """R2.4"""
    session = lab.sign_in(lab.secrets["submit"]).cookies["trainyard_session"]
    for headers, status in (
        ({"authorization": f"Bearer {lab.secrets['submit']}"}, 201),
        ({"authorization": f"Bearer {lab.secrets['submit']}", "cookie": "any=thing"}, 403),
        ({"authorization": f"Bearer {lab.secrets['submit']}", "cookie": f"trainyard_session={session}"}, 403),
        ({"cookie": f"trainyard_session={session}"}, 403),
        ({"authorization": "Bearer wrong"}, 403),
        ({"authorization": f"Bearer {lab.secrets['submit']}", "sec-fetch-site": "cross-site"}, 403),
    ):
        with lab.http(headers={"origin": "https://notebook.example", **headers}) as client:
            assert client.post("/api/v1/runs", json={"external": True}).status_code == status, headers


# -- the API and the page ------------------------------------------------------------------------------------


def test_tokens_are_made_listed_and_revoked_by_the_api(lab: Lab) -> None:
    with lab.http("admin") as admin:
        made = admin.post("/api/v1/tokens", json={"name": "robot", "scope": "submit", "expires_in_days": 1})
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        row = made.json()
        assert {
            "name": "robot",
            "kind": "token",
            "scope": "submit",
            "state": "active",
            "created_by": "admin",
        }.items() <= row.items()
        assert row["prefix"] == row["secret"][:8]
        with lab.http(headers={"authorization": f"Bearer {row['secret']}"}) as robot:
            assert robot.post("/api/v1/runs", json={"external": True}).status_code == 201
        assert admin.post("/api/v1/tokens", json={"name": "robot", "scope": "read"}).status_code == 409
        listed = admin.get("/api/v1/tokens")
        assert row["secret"] not in listed.text
        assert "digest" not in listed.text
        assert "scrypt" not in listed.text
        assert "robot" in [one["name"] for one in listed.json()["tokens"]]
        for _ in range(2):
            assert admin.delete(f"/api/v1/tokens/{row['id']}").status_code == 204
        rows = {one["id"]: one for one in admin.get("/api/v1/tokens").json()["tokens"]}
        assert rows[row["id"]]["state"] == "revoked"
        assert admin.delete("/api/v1/tokens/nobody").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scope": "read"}, "name"), ({"name": "x"}, "scope"), ({"name": "x", "scope": "root"}, "scope"),
        ({"name": "x", "scope": "read", "expires_in_days": 0}, "expires_in_days"),
        ({"name": "x", "scope": "read", "expires_in_days": 1e9}, "expires_in_days"),
        ({"name": "x", "scope": "read", "expires_in_days": "NaN"}, "expires_in_days"),
        ({"name": "x", "scope": "read", "hash": "x"}, "hash"), ({"name": "\0", "scope": "read"}, "name"),
    ],
)  # fmt: skip
def test_a_bad_token_is_refused_by_its_field(lab: Lab, body: dict[str, Any], field: str) -> None:
    with lab.http("admin") as admin:
        answer = admin.post("/api/v1/tokens", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


def test_the_page_shows_a_new_token_once(lab: Lab) -> None:
    with lab.http() as admin:
        admin.post("/login", data={"token": lab.secrets["admin"]})
        page = admin.post("/tokens", data={"name": "<b>bob</b>", "scope": "submit", "days": "30"})
        assert page.status_code == 201
        secret = page.text.partition('value="ty_')[2].partition('"')[0]
        assert len(secret) == 43
        assert "<b>bob" not in page.text
        again = admin.post("/tokens", data={"name": "<b>bob</b>", "scope": "submit", "days": "30"})
        assert again.status_code == 409
        assert "already" in again.text
        assert secret not in admin.get("/tokens").text
        token_id = next(
            one["id"] for one in admin.get("/api/v1/tokens").json()["tokens"] if one["name"] == "<b>bob</b>"
        )
        asked = admin.get("/tokens", params={"revoke": token_id})
        assert "This cannot be undone" in asked.text
        assert f'action="/tokens/{token_id}/revoke"' in asked.text
        assert admin.post(f"/tokens/{token_id}/revoke").status_code == 303
        with lab.http(headers={"authorization": f"Bearer ty_{secret}"}) as bob:
            assert bob.get("/api/v1/queue").status_code == 401
        assert "This cannot be undone" not in admin.get("/tokens", params={"revoke": token_id}).text


@pytest.mark.parametrize(
    "path", ["/", "/new", "/runs/{run}", "/runs/{run}/edit", "/bulk?run={run}&action=tag", "/workers"]
)
def test_a_reader_is_shown_no_button_that_would_fail(lab: Lab, path: str) -> None:
    with lab.http("admin") as admin:
        run_id = admin.post("/api/v1/runs", json={"external": True, "name": "shown"}).json()["id"]
        assert "disabled=" not in admin.get(path.format(run=run_id)).text
    with lab.http() as reader:
        reader.post("/login", data={"token": lab.secrets["read"]})
        text = reader.get(path.format(run=run_id)).text
        for form in text.split("<form")[1:]:
            opening, _, rest = form.partition(">")
            if 'method="post"' in opening and "/language" not in opening and "/logout" not in opening:
                buttons = [
                    part.partition(">")[0] for part in rest.partition("</form>")[0].split("<button")[1:]
                ]
                assert all("disabled=" in button and "scope" in button for button in buttons), form


# -- the command line ----------------------------------------------------------------------------------------


def manage(env: dict[str, str], *arguments: str, typed: str = "") -> Any:
    return run_command([sys.executable, "-m", "trainyard", *arguments], env=env, text=typed)


def test_tokens_are_managed_from_the_command_line(tmp_path: Path) -> None:
    """Before the first start there is no database yet: it is made."""
    env = trainyard_env(tmp_path)
    made = manage(env, "token", "create", "ci", "--scope", "submit", "--expires", "2w")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("ty_")
    assert "everybody has to sign in" in made.stderr
    bad = manage(env, "token", "create", "other", "--expires", "soon")
    assert (bad.returncode, "write 12h, 90d or 2w" in bad.stderr) == (2, True)
    assert manage(env, "password", "set", "carol", "--scope", "read", typed=PASSWORD + "\n").returncode == 0
    assert "four or five words" in manage(env, "password", "set", "dora", typed="short\n").stderr
    listed = json.loads(manage(env, "token", "list", "--json").stdout)
    assert {(one["name"], one["kind"], one["scope"]) for one in listed} == {
        ("ci", "token", "submit"),
        ("carol", "password", "read"),
    }
    table = manage(env, "token", "list").stdout
    assert secret[:8] in table
    assert secret not in table
    assert "Revoked the token 'ci'" in manage(env, "token", "revoke", "ci").stdout
    with sqlite3.connect(tmp_path / "trainyard.db") as connection:
        assert connection.execute("SELECT count(*) FROM token").fetchone() == (2,)


@pytest.mark.parametrize("revoked", [False, True])
def test_beyond_loopback_a_token_of_the_database_is_enough(tmp_path: Path, revoked: bool) -> None:
    """R1.2; and where the only one was revoked, nobody gets in."""
    with redis_server(tmp_path) as redis:
        env = trainyard_env(tmp_path, broker_url=redis.broker_url)
        secret = manage(env, "token", "create", "me", "--scope", "admin").stdout.strip()
        if revoked:
            assert manage(env, "token", "revoke", "me").returncode == 0
        port = free_port()
        env |= {"TRAINYARD_HOST": "0.0.0.0", "TRAINYARD_PORT": str(port)}
        url = f"http://127.0.0.1:{port}"
        with running("web", [sys.executable, "-m", "app"], directory=tmp_path, env=env) as process:
            wait_for(lambda: answers(f"{url}/readyz"), "the web process", 30, process=process)
            assert answers(f"{url}/api/v1/queue", 401)
            assert answers(f"{url}/api/v1/queue", 401 if revoked else 200, token=secret)
