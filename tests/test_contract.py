"""The OpenAPI document is kept: thousands of requests made of it get only the answers that it tells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.api.contract import ERROR, TITLES
from app.main import create_app
from app.settings import Settings
from tests.processes import Web, migrate, redis_server, trainyard_env, web_process

QUARANTINE = Path(__file__).parent / "security" / "quarantine"
TOKEN = "of-an-administrator-0123456789abcdef"  # with one, no token that the requests make locks them out
CHECKS_LEFT_OUT = (
    "positive_data_acceptance",  # rules between fields, such as `spec` or `external`, are not in a JSON schema
    "allow_header_conformance",  # /runs/bulk is an address of /runs/{run_id} too, with that one's methods
)
GUESSES = (
    "ignored_auth"  # tried by the first phases; after so many wrong tokens the answer is 429, as it should be
)
PHASES = {"coverage": 1, "fuzzing": 12, "stateful": 6}  # examples an operation


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Of its own: what is sent here is nonsense, and no worker may train it."""
    directory = tmp_path_factory.mktemp("contract")
    with redis_server(directory) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url, TOKEN=TOKEN)
        env |= {"PYTHONPATH": str(QUARANTINE), "QUARANTINE_NOTES": str(directory / "notes")}
        migrate(env)
        with web_process(env, directory=directory) as started:
            yield started
    assert not (directory / "notes").exists(), "it reached out: " + (directory / "notes").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("phase", PHASES)
def test_every_answer_is_one_that_the_document_tells(web: Web, tmp_path: Path, phase: str) -> None:
    """By schemathesis: no 5xx, no answer that takes half a minute, known status codes, types and shapes.

    The event stream is left out, as it never ends; tests/test_live.py has it. So is the pre-flight, which answers 503
    here, as no worker is up; tests/test_preflight.py has it.
    """
    left_out = (*CHECKS_LEFT_OUT, GUESSES) if phase == "stateful" else CHECKS_LEFT_OUT
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{web.url}/openapi.json", "--phases", phase),
        *(
            "--exclude-path",
            "/api/v1/events",
            "--exclude-path",
            "/api/v1/preflight",
            "--exclude-checks",
            ",".join(left_out),
        ),
        *("--max-examples", str(PHASES[phase]), "--request-timeout", "30", "--seed", "1", "--no-color"),
        *("--header", f"Authorization: Bearer {TOKEN}", "--generation-database", "none"),
        *("--continue-on-failure", "--no-shrink"),
    ]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False
    )  # it leaves notes where it runs
    assert ended.returncode == 0, ended.stdout[-12_000:] + ended.stderr[-2_000:]
    assert "Tested: " in ended.stdout
    assert "401" not in ended.stdout
    web.process.check()
    assert "incident" not in web.process.output()


def test_every_operation_tells_its_errors(tmp_path: Path) -> None:
    application = create_app(Settings(data_dir=tmp_path))
    document = application.openapi()
    application.state.db.dispose()
    assert document["components"]["schemas"]["Error"] == ERROR
    assert "HTTPValidationError" not in str(document)
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(operations) >= 29
    for method, path, operation in operations:
        told = {int(status) for status in operation["responses"]}
        assert 400 in told, path
        assert ("{" not in path) or 404 in told, path
        assert ("requestBody" not in operation) or {413, 422} <= told, (method, path)
        for status in told & TITLES.keys():
            if path != "/readyz":  # which says 503 in its own words
                schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Error"}, (method, path, status)
