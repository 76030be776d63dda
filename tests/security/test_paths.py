"""R3: no text in any request leads to a file. A canary outside the data directory is never read, changed or deleted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlmodel import col, update

from app.db import Database
from app.folders import delete_folder, find_file
from app.main import create_app
from app.models import Run
from app.settings import Settings
from tests.processes import Web, migrate, redis_server, trainyard_env, web_process
from tests.security.surface import BODIES, FORM_NAMES, Route, list_routes, replace_texts
from tests.security.wire import Wire, in_path

TOKEN = "of-an-administrator-0123456789abcdef"  # with one, no token that these requests make locks them out
QUARANTINE = Path(__file__).parent / "quarantine"  # no address, host or URL in a request is ever asked
SECRET = "the-canary-sings-" + "0123456789abcdef"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Cage:
    """A web process, and a canary beside its data directory."""

    web: Web
    data: Path
    outside: Path
    run: str
    routes: list[Route]

    @property
    def canary(self) -> Path:
        return self.outside / "canary.txt"

    def state(self) -> list[tuple[str, int, int]]:
        """All files outside the data directory, with sizes and times of change."""
        found = sorted(path for path in self.outside.rglob("*") if self.data not in (path, *path.parents))
        return [(str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in found]


@pytest.fixture(scope="module")
def cage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cage]:
    outside = tmp_path_factory.mktemp("cage")
    data, logs = outside / "data", tmp_path_factory.mktemp("logs")
    (outside / "canary.txt").write_text(SECRET)
    (outside / "folder").mkdir()
    (outside / "folder" / "canary.txt").write_text(SECRET)
    with redis_server(logs) as redis:
        env = trainyard_env(data, broker_url=redis.broker_url, TOKEN=TOKEN)
        env |= {"PYTHONPATH": str(QUARANTINE), "QUARANTINE_NOTES": str(logs / "notes")}
        migrate(env)
        application = create_app(Settings(data_dir=data))
        routes = list_routes(application)
        application.state.db.dispose()
        with web_process(env, directory=logs) as web:
            with Wire(web.url, token=TOKEN) as wire:
                run = make_run(wire)
            yield Cage(web, data, outside, run, routes)
    assert not (logs / "notes").exists(), "R7.1: " + (logs / "notes").read_text()


@pytest.fixture
def wire(cage: Cage) -> Iterator[Wire]:
    with Wire(cage.web.url, token=TOKEN) as opened:
        yield opened


def make_run(wire: Wire) -> str:
    made = wire.send_json("POST", "/api/v1/runs", {"external": True, "name": "caged"})
    return str(json.loads(made.body)["id"])


def texts(cage: Cage) -> list[str]:
    """Ways to say where the canary is, from the folders that are served, and ways that opened other servers."""
    canary, folder = cage.canary, cage.data / "runs" / cage.run
    up = os.path.relpath(canary, folder)
    return [
        up,
        up.replace("/", "\\"),
        up.replace("../", "....//"),
        up.replace("/", "/;/"),
        f"x/;/{up}",
        f"x#/{up}",
        f"x?/{up}",
        f"x\0{up}",
        f"{up}\0.png",
        up.replace("..", "%2e%2e").replace("/", "%2f"),
        up.replace("..", "%252e%252e").replace("/", "%252f"),
        up.replace("..", "．．"),  # full-width dots, which normalisation makes dots
        up.replace("/", "∕"),
        str(canary),
        f"/{canary}",
        f"file://{canary}",
        f"//localhost{canary}",
        "http://192.0.2.1/secret",
        "//198.51.100.7/secret",
        "C:\\windows\\win.ini",
        "\\\\localhost\\c$\\windows\\win.ini",
        "..",
        ".",
        "~root",
        "-rf",
        "$(touch pwned)",
        "../" * 1_300 + "etc/passwd",
        "a" * 4_096,
        "CON",
    ]


def check(cage: Cage, wire: Wire, method: str, target: str, status: int, body: bytes) -> None:
    assert status < 500, f"{method} {target[:300]}: {status}"
    assert status != 401 or target == "/login", "the corpus has locked itself out"
    assert SECRET.encode() not in body, f"{method} {target[:300]} read the canary"
    assert b"root:x:0" not in body, f"{method} {target[:300]} read /etc/passwd"


def test_no_text_in_a_path_leads_to_a_file(cage: Cage, wire: Wire) -> None:
    before = cage.state()
    good = {name: cage.run for route in cage.routes for name in route.names}
    for route in cage.routes:
        for name in route.names:
            for text in texts(cage):
                for written in {in_path(text), text.replace("\0", "%00").replace(" ", "%20")}:
                    if not written.isascii():
                        continue
                    target = route.fill({**good, name: written})
                    answer = wire.ask(route.method, target)
                    check(cage, wire, route.method, target, answer.status, answer.body)
                    if written == in_path(text) and answer.status < 400:
                        assert answer.status == 303, f"{route.method} {target[:300]}: {answer.status}"
    assert cage.state() == before


def test_no_text_in_a_query_leads_to_a_file(cage: Cage, wire: Wire) -> None:
    before = cage.state()
    good = {name: cage.run for route in cage.routes for name in route.names}
    asked = 0
    for route in cage.routes:
        if route.method not in ("GET", "HEAD"):
            continue
        target = route.fill(good)
        for text in texts(cage):
            page = not target.startswith("/api/")
            queries = [dict.fromkeys(route.query, text)] if page else [{name: text} for name in route.query]
            for query in queries:
                usual = {"run": cage.run} if "run" in route.query and "run" not in query else {}
                answer = wire.get(target, **usual, **query)
                check(cage, wire, route.method, f"{target}?{query}", answer.status, answer.body)
                asked += 1
    assert asked > 1_000
    assert cage.state() == before


def test_no_text_in_a_body_or_a_form_leads_to_a_file(cage: Cage, wire: Wire) -> None:
    before = cage.state()
    good = {name: cage.run for route in cage.routes for name in route.names}
    for route in sorted(
        cage.routes, key=lambda route: route.path.endswith("/delete")
    ):  # the run is needed till then
        if route.method in ("GET", "HEAD"):
            continue
        target, body = route.fill(good), BODIES.get(f"{route.method} {route.path}")
        for text in texts(cage):
            if body is not None:
                for changed in replace_texts(body, text):
                    answer = wire.send_json(route.method, target, changed)
                    check(cage, wire, route.method, f"{target} {changed}", answer.status, answer.body)
            elif not target.startswith("/api/"):
                answer = wire.send_form(target, dict.fromkeys(FORM_NAMES, text))
                check(cage, wire, route.method, target, answer.status, answer.body)
    assert cage.state() == before
    assert not list(Path.cwd().glob("pwned"))


def test_every_operation_with_a_body_is_tried(cage: Cage) -> None:
    application = create_app(Settings(data_dir=cage.data))
    document = application.openapi()
    application.state.db.dispose()
    with_body = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    assert with_body == BODIES.keys(), "give tests/security/surface.py a body of the new operation"


def test_a_link_in_a_runs_folder_is_no_file_of_the_run(cage: Cage, wire: Wire) -> None:
    """Even if a trainer was made to plant it, and the database to name it."""
    run = make_run(wire)
    folder = cage.data / "runs" / run
    folder.mkdir(parents=True)
    (folder / "real.pt").write_bytes(b"weights")
    (folder / "link.pt").symlink_to(cage.canary)
    (folder / "inside").symlink_to(cage.outside / "folder")
    (folder / "loop.pt").symlink_to(folder / "loop.pt")
    os.mkfifo(folder / "pipe.pt")
    database = Database(Settings(data_dir=cage.data).database_url)
    for name, status in {
        "real.pt": 200, "link.pt": 404, "loop.pt": 404, "pipe.pt": 404, "inside": 404, "inside/canary.txt": 404,
        "../../../canary.txt": 404, str(cage.canary): 404, ".": 404, "..": 404, "": 404,
    }.items():  # fmt: skip
        pointer = {"file": name, "step": 1, "epoch": 0, "sha256": "0" * 64}
        with database.begin() as s:
            s.execute(update(Run).where(col(Run.id) == run).values(checkpoint=pointer))
        answer = wire.get(f"/api/v1/runs/{run}/artifacts/{in_path(name)}")
        if name:
            assert answer.status == status, name
        assert SECRET.encode() not in answer.body
        listed = wire.get(f"/api/v1/runs/{run}/artifacts")
        (one,) = json.loads(listed.body)["artifacts"]
        assert one["available"] == (status == 200), name
    with database.begin() as s:
        s.execute(update(Run).where(col(Run.id) == run).values(checkpoint=None))
    database.dispose()


def test_deleting_a_run_follows_no_link(cage: Cage, wire: Wire) -> None:
    before = cage.state()
    runs = [make_run(wire), make_run(wire)]
    for run in runs:
        wire.send_json("POST", f"/api/v1/runs/{run}/finish", {})
    first, second = (cage.data / "runs" / run for run in runs)
    first.mkdir(parents=True)
    (first / "link").symlink_to(cage.outside / "folder")
    second.symlink_to(cage.outside / "folder")
    for run in runs:
        assert wire.ask("DELETE", f"/api/v1/runs/{run}").status == 204
    assert not first.exists()
    assert cage.state() == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0b", "a\\b", "../folder", "x" * 300])
def test_only_names_right_inside_a_folder_are_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("b")
    (tmp_path / "folder").mkdir()
    assert find_file(tmp_path, "", name) is None
    assert find_file(tmp_path / "a", name, "b") is None or name == ""
    delete_folder(tmp_path / "a", name)
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "folder").exists()


def test_a_file_is_found_where_the_data_directory_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "real" / "run" / "a.pt").write_text("a")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    found = find_file(tmp_path / "linked", "run", "a.pt")
    assert found is not None
    assert found.status.st_size == 1
