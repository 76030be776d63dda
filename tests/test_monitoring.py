"""What operators look at: /metrics, the log lines of every process, request and incident numbers."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import processes
from tests.processes import Process, Web, redis_server, run_command, trainyard_env, wait_for

SMALL = {"dataset": "digits", "train_size": 64, "val_size": 32, "epochs": 1}
SECRET = "hidden-broker-password"
EVIL = "n\n2026-01-01T00:00:00.000Z ERROR app forged \x1b[31m\u202e"


@dataclass(frozen=True)
class Yard:
    """Web process and worker whose logs are JSON lines, with a broker that needs a password."""

    web: Web
    worker: Process
    directory: Path

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.web.url, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    directory = tmp_path_factory.mktemp("monitoring")
    with redis_server(directory, password=SECRET) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url, LOG_FORMAT="json", LOG_LEVEL="debug")
        processes.migrate(env)
        with (
            processes.web_process(env, directory=directory) as web,
            processes.worker_process(env, 1, directory=directory) as worker,
        ):
            yield Yard(web, worker, directory)


def scrape(http: httpx.Client) -> dict[str, dict[tuple[str, ...], float]]:
    """Every sample: name -> values of the labels, sorted by their names -> value."""
    answer = http.get("/metrics")
    assert answer.status_code == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def records(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


@pytest.mark.slow
def test_a_run_is_seen_in_the_metrics_and_in_the_logs_of_all_three_processes(yard: Yard) -> None:
    with yard.http as http:
        before = scrape(http)
        sent = http.post(
            "/api/v1/runs", json={"spec": SMALL, "name": "measured"}, headers={"X-Request-ID": "from-a-proxy"}
        )
        run_id = sent.json()["id"]
        assert sent.headers["x-request-id"] == "from-a-proxy"
        wait_for(lambda: http.get(f"/api/v1/runs/{run_id}").json()["state"] == "finished", "the run", 120)

        def look() -> dict[str, dict[tuple[str, ...], float]] | None:
            now = scrape(http)
            ended = ("worker", "running", "finished") in now["trainyard_run_transitions_total"]
            return now if ended and now["trainyard_slots"][("busy",)] == 0 else None

        seen = wait_for(look, "the metrics to tell")

    assert before["trainyard_runs"][("finished",)] == 0
    assert seen["trainyard_runs"][("finished",)] == 1
    assert seen["trainyard_workers"][()] == 1
    assert seen["trainyard_slots"] == {("busy",): 0, ("free",): 1}
    assert (seen["trainyard_database_up"][()], seen["trainyard_broker_up"][()]) == (1, 1)
    assert seen["trainyard_queue_waiting"][()] == 0
    assert seen["trainyard_points_stored"][()] > 0
    assert seen["trainyard_flushes_stored"][()] > 0
    assert seen["trainyard_database_size_bytes"][()] > 10_000
    assert seen["trainyard_disk_free_bytes"][()] > 0
    assert seen["process_resident_memory_bytes"][()] > 10_000_000
    assert seen["trainyard_run_transitions_total"][("worker", "queued", "running")] == 1
    latency = seen["trainyard_http_request_duration_seconds_count"]
    assert latency[("POST", "/api/v1/runs", "201")] == 1
    assert latency[("GET", "/api/v1/runs/{run_id}", "200")] >= 1
    assert not any(run_id in label for labels in latency for label in labels)

    worker = records(yard.worker.output())
    assert any(r.get("run") == run_id and r.get("attempt") == 1 and "worker" in r for r in worker)
    [log] = (yard.directory / "runs" / run_id).glob("*.log")
    assert [r["run"] for r in records(log.read_text())][:1] == [run_id]
    told = [r for r in records(yard.web.process.output()) if r.get("request") == "from-a-proxy"]
    assert [r["message"].split(" in ")[0] for r in told if r["logger"] == "app.traffic"] == [
        "POST /api/v1/runs 201"
    ]


def test_points_of_scripts_streams_and_strange_requests_are_counted(yard: Yard) -> None:
    with yard.http as http:
        run_id = http.post("/api/v1/runs", json={"external": True}).json()["id"]
        http.post(f"/api/v1/runs/{run_id}/metrics", json={"step": [1, 2, 3], "values": {"loss": [3, 2, 1]}})
        http.get("/nothing/here/1")
        http.get("/nothing/here/2")
        http.get("/static/css/trainyard.css")
        http.request("PROPFIND", "/coffee")
        http.get("/", headers={"host": "evil.example"})
        with http.stream("GET", "/api/v1/events", params={"run": run_id}) as stream:
            assert stream.headers["x-request-id"]
            wait_for(lambda: scrape(http)["trainyard_sse_clients"][()] == 1, "the stream to be counted")
        seen = scrape(http)

    assert seen["trainyard_points_ingested_total"][()] == 3
    assert seen["trainyard_batches_ingested_total"][()] == 1
    latency = seen["trainyard_http_request_duration_seconds_count"]
    assert latency[("GET", "none", "404")] == 2
    assert latency[("GET", "/static", "200")] == 1
    assert sum(latency[labels] for labels in latency if labels[:2] == ("other", "none")) == 1
    assert latency[("GET", "none", "400")] == 1
    assert seen["trainyard_build_info"]


def test_scrapes_close_together_share_one_look_at_the_database(yard: Yard) -> None:
    with yard.http as http:
        total = sum(scrape(http)["trainyard_runs"].values())
        http.post("/api/v1/runs", json={"external": True})
        began = time.monotonic()
        wait_for(lambda: sum(scrape(http)["trainyard_runs"].values()) > total, "the next look")
        looked = records(yard.web.process.output())

    # Of the many scrapes in these seconds most were answered from memory: they took no time to speak of.
    assert time.monotonic() - began < 30
    assert sum("GET /metrics 200" in record["message"] for record in looked) > 10


def test_openmetrics_is_spoken_on_request(yard: Yard) -> None:
    with yard.http as http:
        answer = http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_request_number_that_could_forge_a_line_is_replaced(yard: Yard) -> None:
    with yard.http as http:
        for given in ("a b", "x" * 65, "a\tb", 'quote"'):
            told = http.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"]
            assert re.fullmatch("[0-9a-f]{16}", told)


def test_no_log_holds_the_brokers_password(yard: Yard) -> None:
    logs = "".join(path.read_text(errors="replace") for path in yard.directory.glob("*.log"))
    assert records(yard.web.process.output())  # each line is JSON
    assert SECRET not in logs


def test_the_incident_of_a_crash_is_in_the_log_once_with_its_request(tmp_path: Path) -> None:
    env = trainyard_env(tmp_path, broker_url=f"redis+socket://{tmp_path}/none.sock")
    processes.migrate(env)
    port = processes.free_port()
    command = [sys.executable, "-m", "app"]
    with processes.running(
        "web", command, directory=tmp_path, env={**env, "TRAINYARD_PORT": str(port)}
    ) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: processes.answers(f"{url}/healthz"), "the web process", 60, process=process)
        run_id = httpx.post(f"{url}/api/v1/runs", json={"external": True}, trust_env=False).json()["id"]
        with closing(sqlite3.connect(tmp_path / "trainyard.db")) as connection:
            connection.execute("UPDATE run SET spec = '{'")  # nobody expects that
            connection.commit()
        answer = httpx.get(
            f"{url}/runs/{run_id}", headers={"accept": "text/html"}, trust_env=False, timeout=30
        )
        request_id = answer.headers["x-request-id"]
        wait_for(lambda: f"/runs/{run_id} 500" in process.output(), "the line")

    assert answer.status_code == 500
    [incident] = re.findall(r"under ([0-9a-f]{8})", answer.text)
    [line] = [line for line in process.output().splitlines() if f"incident {incident}" in line]
    assert f"[request={request_id}]" in line
    assert process.output().count("JSONDecodeError: ") == 1
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_comes_from_outside_begins_no_line_and_moves_no_cursor(form: str, tmp_path: Path) -> None:
    code = f"""
import logging
from app import logs
from app.settings import get_settings
logs.configure(get_settings())
log = logging.getLogger("app.test")
with logs.bind(run="abc", attempt=2):
    log.info("name %s", {EVIL!r})
    log.info("at redis://user:{SECRET}@host/0 with Bearer {SECRET} and half a character \\udcff")
    try:
        raise ValueError({EVIL!r})
    except ValueError:
        log.exception("it failed")
log.debug("not told")
"""
    ended = run_command([sys.executable, "-c", code], env=trainyard_env(tmp_path, LOG_FORMAT=form.upper()))

    assert ended.returncode == 0, ended.stderr
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", ended.stderr)
    assert SECRET not in ended.stderr
    assert "not told" not in ended.stderr
    lines = ended.stderr.splitlines()
    if form == "json":
        assert [record["run"] for record in records(ended.stderr)] == ["abc"] * 3
        assert json.loads(lines[0])["message"] == f"name {EVIL}"
        assert "ValueError" in json.loads(lines[2])["error"]
    else:
        begun = [line for line in lines if not line.startswith("    ")]
        assert len(begun) == 3
        assert all(" app.test [run=abc attempt=2] " in line for line in begun)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("LOG_LEVEL", "loud", "'warning'"), ("LOG_FORMAT", "xml", "'json'"), ("PORT", "http", "integer")],
)
def test_a_wrong_setting_is_named_in_one_line(name: str, value: str, said: str, tmp_path: Path) -> None:
    ended = run_command([sys.executable, "-m", "app"], env=trainyard_env(tmp_path, **{name: value}))
    assert ended.returncode == 1
    assert f"TRAINYARD_{name}" in ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
