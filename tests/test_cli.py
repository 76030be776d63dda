"""The command `trainyard` against a real server: output, messages and exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from app import workers
from app.db import Database
from ml.recipes import find_recipe
from ml.spec import RunSpec
from tests.processes import (
    free_port,
    migrate,
    redis_server,
    run_command,
    running,
    trainyard_env,
    wait_for,
    web_process,
    worker_process,
)
from trainyard import Client

TRAINYARD = [sys.executable, "-m", "trainyard"]


@dataclass(frozen=True)
class Server:
    """A web process without a worker: what is submitted stays queued."""

    url: str
    env: dict[str, str]

    def run(self, *arguments: str, text: str | None = None) -> CompletedProcess[str]:
        return run_command([*TRAINYARD, *arguments], env={"TRAINYARD_URL": self.url}, text=text)

    def json(self, *arguments: str) -> Any:
        ended = self.run(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("cli")
    with redis_server(directory) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url)
        migrate(env)
        with web_process(env, directory=directory) as web:
            yield Server(web.url, env)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def test_submit_prints_id_and_address(server: Server, client: Client) -> None:
    ended = server.run(
        "submit", "--dataset", "digits", "--lr", "0.2", "--option", "activation=relu", "--name", "n"
    )

    assert ended.returncode == 0
    run_id, url = ended.stdout.split()
    assert url == f"{server.url}/runs/{run_id}"
    spec = client.get(run_id).spec
    assert (spec["lr"], spec["model_options"]["activation"]) == (0.2, "relu")


def test_flags_go_before_the_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(
        json.dumps({"dataset": "digits", "lr": 0.3, "seed": 7, "model_options": {"pooling": "avg"}})
    )

    run = server.json(
        "submit", "--file", str(file), "--seed", "8", "--option", "activation=tanh", "--tag", "t"
    )

    assert (run["spec"]["lr"], run["spec"]["seed"], run["tags"]) == (0.3, 8, ["t"])
    assert run["spec"]["model_options"] == {"activation": "tanh", "pooling": "avg", "init": "default"}


def test_a_spec_comes_from_standard_input(server: Server) -> None:
    ended = server.run("submit", "--file", "-", "--json", text='{"model": "resnet8", "dataset": "digits"}')

    assert json.loads(ended.stdout)["model"] == "resnet8"


def test_a_recipe_is_where_to_begin(server: Server, client: Client) -> None:
    found = server.json(
        "submit", "--recipe", "--model", "resnet8", "--lr", "0.3", "--option", "residual=false"
    )
    spec = client.get(found["id"]).spec
    recipe = find_recipe("resnet8", "mnist").fields
    assert {name: spec[name] for name in recipe} == {**recipe, "lr": 0.3}
    assert spec["model_options"] == {"residual": False}
    lenet = client.get(server.json("submit", "--recipe", "--dataset", "digits")["id"]).spec
    assert lenet["model_options"]["activation"] == "relu"
    assert lenet["epochs"] == find_recipe("lenet", "digits").fields["epochs"]


@pytest.mark.parametrize(("field", "value"), [("model", "vgg"), ("dataset", "imagenet")])
def test_without_a_recipe_nothing_starts(server: Server, field: str, value: str) -> None:
    ended = server.run("submit", "--recipe", f"--{field}", value)
    assert ended.returncode == 2
    assert f"--{field}: there is no '{value}'; there are" in ended.stderr


def test_every_field_of_the_spec_has_a_flag(server: Server) -> None:
    told = server.run("submit", "--help").stdout

    for field in set(RunSpec.model_fields) - {"model_options"}:
        assert f"--{field.replace('_', '-')}" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lr", "-1"], "--lr: "),
        (["--lr", "fast"], "--lr"),
        (["--batch-size", "0"], "--batch-size: "),
        (["--model", "lenot"], "--model: unknown model 'lenot'"),
        (["--option", "activation=relo"], "--option activation: "),
        (["--option", "activation"], "name=value"),
        (["--file", "/no/such/file"], "--file: cannot read"),
        (["--train-size", "999999"], "--train-size: "),
        (["--epoch", "3"], "--epoch"),
    ],
)
def test_a_wrong_flag_is_named_with_exit_code_2(server: Server, arguments: list[str], said: str) -> None:
    ended = server.run("submit", "--dataset", "digits", *arguments)

    assert ended.returncode == 2
    assert said in " ".join(ended.stderr.replace("│", " ").split())


@pytest.mark.parametrize("text", ["{", "[]", '{"lr": "fast"}', '{"learning": 1}'])
def test_a_wrong_file_is_exit_code_2(server: Server, text: str) -> None:
    ended = server.run("submit", "--file", "-", text=text)

    assert ended.returncode == 2
    assert "--" in ended.stderr


def test_runs_are_listed_and_filtered(server: Server, client: Client) -> None:
    wanted = [client.submit(dataset="digits", experiment="listed", seed=seed).id for seed in range(3)]

    found = server.json("runs", "--experiment", "listed", "--state", "queued", "--limit", "2")
    table = server.run("runs", "--experiment", "listed")

    assert [run["id"] for run in found] == wanted[:0:-1]
    assert all(run_id in table.stdout for run_id in wanted)
    assert "No runs" in server.run("runs", "--experiment", "nothing here").stdout
    assert server.json("runs", "--experiment", "nothing here") == []
    assert [run["id"] for run in server.json("runs", "--experiment", "listed", "--limit", "1")] == wanted[2:]
    assert server.run("runs", "--state", "asleep").returncode == 2


def test_without_a_worker_nothing_can_be_told_of_a_spec(server: Server) -> None:
    ended = server.run("preflight", "--dataset", "digits")
    assert ended.returncode == 1
    assert "start one with `trainyard worker`" in ended.stderr
    assert server.run("preflight", "--lr", "99").returncode == 2


def test_workers_and_drain(server: Server) -> None:
    assert "No worker is here" in server.run("workers").stdout
    missing = server.run("drain", "gpu-1")
    assert (missing.returncode, "there is no worker 'gpu-1' here" in missing.stderr) == (2, True)

    database = Database(f"sqlite:///{server.env['TRAINYARD_DATA_DIR']}/trainyard.db")
    with database.begin() as s:
        workers.say_present(s, "gpu-1", 2, ["CPU"], ["r1"]).seen_at += 3_600  # it stays while this test lasts
    (row,) = server.json("workers")
    assert (row["name"], row["state"], row["slots"]) == ("gpu-1", "ready", 2)
    assert "ends when it is over" in server.run("drain", "gpu-1").stdout
    assert "draining" in server.run("workers").stdout

    command = [*TRAINYARD, "drain", "gpu-1", "--now", "--wait"]
    env = {"TRAINYARD_URL": server.url}
    with running("drain", command, directory=Path(server.env["TRAINYARD_DATA_DIR"]), env=env) as process:
        wait_for(lambda: "given back" in process.output(), "its answer", process=process)
        with database.begin() as s:
            assert workers.read_wish(s, "gpu-1") == "now"
            workers.say_goodbye(s, "gpu-1")
        assert process.popen.wait(60) == 0
    database.dispose()


def test_cancel(server: Server, client: Client) -> None:
    first, second = (client.submit(dataset="digits").id for _ in range(2))

    canceled = server.run("cancel", first, second)

    assert canceled.returncode == 0
    assert canceled.stdout.split() == [first, "canceled", second, "canceled"]
    assert server.run("cancel", first).returncode == 1  # it has ended


def test_compare_says_whether_it_is_fair(server: Server, client: Client) -> None:
    first = client.submit(dataset="digits", batch_size=32).id
    second = client.submit(dataset="digits", batch_size=64, model="resnet8").id

    told = server.run("compare", first, second).stdout

    address, _, verdict, *_rest = told.splitlines()
    assert address == f"{server.url}/compare?run={first}&run={second}"
    assert verdict == "Confounded by batch size 32 → 64"
    assert f"run {second} again with batch_size 32" in told
    assert "batch_size" in told.split("Id", 1)[1].splitlines()[0]

    found = server.json("compare", first, second, "--baseline", second)
    assert (found["url"], found["verdict"]["kind"]) == (address, "confounded")
    assert found["matched"][0]["run"] == first
    assert server.json("compare", first, second, "--group", "batch_size")["verdict"]["subject"] == [
        "batch_size"
    ]


def test_compare_tells_what_the_seeds_show(server: Server, client: Client) -> None:
    ids = []
    for model, base in (("one", 0.90), ("two", 0.95)):
        for seed in range(5):
            with client.external(f"{model} {seed}", {"model": model, "seed": seed}) as run:
                run.log({"val/accuracy": base + 0.002 * seed}, step=1)
                run.log({"val/accuracy": base + 0.001 * seed}, step=2)
            ids.append(run.id)

    told = server.run("compare", *ids).stdout
    assert "val/accuracy, last value: two is 5.00 points better than one [" in told
    assert "p = 0.008, n = 5 + 5." in told
    assert "As far as is known, only the model differs" in told
    best = server.json("compare", *ids, "--at", "best")["statistics"]
    assert best["groups"][1]["values"][4] == pytest.approx(0.958)


def test_compare_names_a_run_that_there_is_not(server: Server, client: Client) -> None:
    run = client.submit(dataset="digits").id
    ended = server.run("compare", run, "nothere")
    assert ended.returncode == 2
    assert "there is no run 'nothere'" in ended.stderr
    assert server.run("compare", run, "--at", "first").returncode == 2


def test_a_loss_that_is_no_number_is_told(server: Server, client: Client) -> None:
    with client.external("diverged", experiment="diverged") as run:
        run.log({"train/loss": float("nan")}, step=1)

    [found] = server.json("runs", "--experiment", "diverged")
    assert found["summary"]["train/loss"]["nonfinite"] == 1
    assert "loss not finite" in server.run("watch", run.id).stdout


def test_exit_code_of_watch_says_how_the_runs_ended(server: Server, client: Client) -> None:
    finished, failed, canceled = (client.external(name) for name in ("good", "bad", "canceled"))
    for run in (finished, failed):
        run.log({"train/loss": 0.25}, step=1)
    finished.finish()
    failed.finish("failed", "out of memory\nmore")
    client.cancel(canceled.id)

    assert server.run("watch", finished.id).returncode == 0
    assert server.run("watch", finished.id, canceled.id).returncode == 3
    ended = server.run("watch", finished.id, failed.id, canceled.id)
    assert ended.returncode == 1
    assert "loss 0.250" in ended.stdout
    assert "out of memory" in ended.stdout
    assert server.run("watch", "no-such-run").returncode == 2


def test_ctrl_c_ends_watch_with_130_and_the_run_goes_on(
    server: Server, client: Client, tmp_path: Path
) -> None:
    run = client.submit(dataset="digits")
    command = [*TRAINYARD, "watch", run.id]
    with running("watch", command, directory=tmp_path, env={"TRAINYARD_URL": server.url}) as process:
        wait_for(lambda: "queued" in process.output(), "the first line", process=process)
        assert process.stop(signal.SIGINT) == 130

    assert client.get(run.id).state == "queued"


def test_nobody_there_is_exit_code_4() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = run_command([*TRAINYARD, "runs", "--url", url])

    assert ended.returncode == 4
    assert url in ended.stderr
    assert "trainyard up" in ended.stderr


@pytest.mark.parametrize(
    "command", ["up", "web", "worker", "migrate", "submit", "watch", "runs", "cancel", "compare"]
)
def test_every_command_has_help(command: str) -> None:
    ended = run_command([*TRAINYARD, command, "--help"])

    assert ended.returncode == 0
    assert "Usage" in ended.stdout


@pytest.mark.slow
def test_submit_watch_follows_a_real_training(server: Server, client: Client, tmp_path: Path) -> None:
    for run in client.runs(state="queued"):
        client.cancel(run.id)  # what the other tests left would train first
    spec = [
        "--dataset",
        "digits",
        "--train-size",
        "128",
        "--val-size",
        "64",
        "--epochs",
        "2",
        "--model",
        "lenet",
    ]
    with worker_process(server.env, directory=tmp_path):
        ended = server.run("submit", *spec, "--watch")

    assert ended.returncode == 0, ended.stderr
    assert "finished  100%" in ended.stdout
    assert "val acc" in ended.stdout
