"""The Python client against a real web process."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.spec import RunSpec
from tests.processes import Web, free_port, migrate, redis_server, trainyard_env, wait_for, web_process
from trainyard import Client, ExternalRun, NotReachable, TrainyardError
from trainyard.external import Row, batches
from trainyard.sse import Message, read_messages

TOKEN = "a-long-token-for-the-tests-0123456789abcdef"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    directory = tmp_path_factory.mktemp("client")
    with redis_server(directory) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url, TOKEN=TOKEN, ALLOWED_HOSTS="127.0.0.1")
        migrate(env)
        yield env


@pytest.fixture(scope="module")
def web(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web_process(env, directory=tmp_path_factory.mktemp("web")) as web:
        yield web


@pytest.fixture
def client(web: Web) -> Iterator[Client]:
    with Client(web.url, TOKEN) as client:
        yield client


def test_submit_gives_the_queued_run(client: Client) -> None:
    run = client.submit(RunSpec(dataset="digits"), lr=0.5, name="mine", experiment="first", tags=["a", "b"])

    assert (run.state, run.name, run.experiment, run.tags) == ("queued", "mine", "first", ["a", "b"])
    assert run.spec["lr"] == 0.5
    assert client.get(run.id).spec == run.spec


def test_submit_names_the_field_that_is_wrong(client: Client) -> None:
    with pytest.raises(TrainyardError) as caught:
        client.submit(lr=-1)

    assert caught.value.status == 422
    assert caught.value.field is not None
    assert "lr" in caught.value.field


def test_the_same_key_gives_the_same_run(client: Client) -> None:
    first = client.submit(dataset="digits", idempotency_key="once")
    again = client.submit(dataset="digits", idempotency_key="once")

    assert again.id == first.id


def test_a_wrong_token_is_refused(web: Web) -> None:
    with Client(web.url, "wrong") as client, pytest.raises(TrainyardError) as caught:
        client.catalog()

    assert caught.value.status == 401


def test_url_and_token_come_from_the_environment(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_URL", web.url + "/")
    monkeypatch.setenv("TRAINYARD_TOKEN", TOKEN)

    with Client() as client:
        assert client.url == web.url
        assert {"lenet", "resnet8"} <= {model["name"] for model in client.catalog()["models"]}


def test_runs_walks_all_pages(client: Client) -> None:
    made = [client.submit(dataset="digits", seed=seed, experiment="pages").id for seed in range(105)]

    assert [run.id for run in client.runs(experiment="pages")] == made[::-1]
    assert [run.id for run in client.runs(experiment="pages", limit=3)] == made[:-4:-1]


def test_cancel_clone_and_resume(client: Client) -> None:
    run = client.submit(dataset="digits", name="to cancel")

    assert client.cancel(run.id).state == "canceled"
    assert client.wait(run.id, timeout=10).state == "canceled"
    with pytest.raises(TrainyardError, match="canceled"):
        client.pause(run.id)
    copy = client.clone(run.id)
    assert copy.id != run.id
    assert copy.spec == run.spec
    assert client.resume(run.id).state == "queued"


def test_an_unknown_run_is_404(client: Client) -> None:
    with pytest.raises(TrainyardError) as caught:
        client.get("../../runs")

    assert caught.value.status == 404


def test_wait_gives_up_in_time(client: Client) -> None:
    run = client.submit(dataset="digits")

    with pytest.raises(TimeoutError):
        client.wait(run.id, timeout=0.3)


def test_events_end_when_asked_to(client: Client) -> None:
    run = client.submit(dataset="digits")
    stop = threading.Event()
    seen = []
    for event in client.events(run.id, timeout=30, stop=stop):
        seen.append(event.kind)
        stop.set()

    assert seen == ["run"]


def test_nobody_there() -> None:
    with Client(f"http://127.0.0.1:{free_port()}", retry_s=0.2) as client:
        with pytest.raises(NotReachable, match="trainyard up"):
            client.catalog()
        with pytest.raises(NotReachable):
            next(client.events("x"))


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="no address"):
        Client("localhost:8000")


# -- external runs -------------------------------------------------------------------------------------------


def test_an_external_run_keeps_every_point(client: Client) -> None:
    with client.external("script", {"lr": 0.1, "model": "mine"}, experiment="outside") as run:
        for step in range(1, 5001):
            run.log({"train/loss": 1 / step}, step=step)
            if step % 1000 == 0:
                run.log({"val/accuracy": step / 5000}, step=step)
        run.log({"train/loss": math.nan})

    ended = client.get(run.id)
    assert ended.state == "finished"
    assert ended.summary["train/loss"].count + ended.summary["train/loss"].nonfinite in (5001, 5002)
    loss, accuracy = client.series(run.id, ["train/loss", "val/accuracy"], points=10_000)
    assert loss.step == list(range(1, 5002))
    assert loss.value[:3] == pytest.approx([1, 1 / 2, 1 / 3])
    assert math.isnan(loss.value[-1])
    assert accuracy.value == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_an_exception_fails_the_external_run(client: Client) -> None:
    run = client.external("breaks")
    with pytest.raises(ZeroDivisionError), run:
        run.log({"train/loss": 1 / 0}, step=1)

    ended = client.get(run.id)
    assert ended.state == "failed"
    assert ended.error == "ZeroDivisionError: division by zero"


def test_log_says_that_the_run_was_canceled(client: Client) -> None:
    run = client.external("canceled elsewhere")
    run.log({"train/loss": 1.0}, step=1)
    client.cancel(run.id)

    def refused() -> bool:
        try:
            run.log({"train/loss": 2.0})
        except TrainyardError as error:
            return error.status == 409
        return False

    wait_for(refused, "the refusal")
    with pytest.raises(TrainyardError, match="canceled"):
        run.finish()


def test_finish_twice_is_no_error_and_log_after_it_is(client: Client) -> None:
    run = client.external("twice")
    assert run.finish().state == "finished"
    assert run.finish().state == "finished"

    with pytest.raises(TrainyardError, match="ended"):
        run.log({"train/loss": 1.0})


def test_points_survive_a_restart_of_the_server(env: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    with Client(f"http://127.0.0.1:{port}", TOKEN) as client:
        with web_process(env, directory=tmp_path, port=port):
            run = client.external("outlives the server")
            run.log({"train/loss": 0.0}, step=1)
            wait_for(lambda: client.get(run.id).last("train/loss") is not None, "the first point")
        for step in range(2, 101):
            run.log({"train/loss": float(step)}, step=step)
        with web_process(env, directory=tmp_path, port=port):
            assert run.finish().state == "finished"
            [series] = client.series(run.id, "train/loss", points=1000)

    assert series.step == list(range(1, 101))


def test_a_lost_answer_does_not_double_anything(web: Web) -> None:
    with dropping_proxy(web.url, drop_answers=2) as url, Client(url, TOKEN) as client:
        run = client.submit(dataset="digits", experiment="lost answer")
        assert [found.id for found in client.runs(experiment="lost answer")] == [run.id]

    with dropping_proxy(web.url, drop_answers=0) as url, Client(url, TOKEN) as client:
        run_by_script = client.external("lost batch")
    with dropping_proxy(web.url, drop_answers=2) as url, Client(url, TOKEN) as client:
        run_by_script._http = client._http
        run_by_script.log({"train/loss": 1.0}, step=1)
        run_by_script.finish()
        assert client.get(run_by_script.id).summary["train/loss"].count == 1


# -- the live stream -----------------------------------------------------------------------------------------


def test_events_bring_every_point_once_through_broken_connections(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainyard.external.FLUSH_S", 0.02)  # many small messages, between which it breaks
    steps: list[int] = []
    with Client(web.url, TOKEN) as script, dropping_proxy(web.url, cut_after_bytes=40_000) as url:
        run = script.external("streamed")
        writer = threading.Thread(target=_log_steps, args=(run,))
        writer.start()
        with Client(url, TOKEN) as client:
            for event in client.events(run.id, timeout=60):
                for series in event.series:
                    steps += series.step
                if len(steps) >= 3000:
                    break
        writer.join()

    assert steps == list(range(1, 3001))


def _log_steps(run: ExternalRun) -> None:
    for step in range(1, 3001):
        run.log({"train/loss": 1.0 / step}, step=step)
        if step % 50 == 0:
            threading.Event().wait(0.03)  # the pace of a training, so that the stream has something to follow
    run.finish()


@contextmanager
def dropping_proxy(
    target: str, *, drop_answers: int = 0, cut_after_bytes: int | None = None
) -> Iterator[str]:
    """A TCP proxy that loses the first answers whole, or cuts each connection after so many bytes."""
    host, port = httpx.URL(target).host, httpx.URL(target).port
    assert port is not None
    listener = socket.create_server(("127.0.0.1", 0))
    left = [drop_answers]
    open_sockets: list[socket.socket] = [listener]

    def serve(near: socket.socket) -> None:
        with near, socket.create_connection((host, port)) as far:
            open_sockets.extend((near, far))
            up = threading.Thread(target=_pump, args=(near, far, None), daemon=True)
            up.start()
            if left[0] > 0:
                left[0] -= 1
                far.recv(65536)  # the server has done it; nobody will hear of it
            else:
                _pump(far, near, cut_after_bytes)
            for end in (near, far):
                _shut(end)
            up.join()

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(near,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for end in open_sockets:
            _shut(end)
        listener.close()
        thread.join()


def _pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    sent = 0
    try:
        while data := source.recv(1024):
            sink.sendall(data)
            sent += len(data)
            if limit is not None and sent > limit:
                return
    except OSError:
        return


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


# -- parsing -------------------------------------------------------------------------------------------------


def test_messages_keep_their_id_and_join_their_lines() -> None:
    stream = b": ping\n\nid: 7\nevent: run\ndata: a\ndata: b\n\ndata:c\r\n\r\ndata: never ended\n"

    assert list(read_messages([stream])) == [Message("run", "a\nb", "7"), Message("message", "c", "7")]


@given(st.text(), st.lists(st.integers(0, 200), max_size=5), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_split_of_the_bytes_gives_the_same_messages(text: str, cuts: list[int], newline: str) -> None:
    text = text.replace("\r", "").replace("\n", "")
    whole = f"id: 1{newline}data: {text}{newline}{newline}data: next{newline}{newline}".encode()
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = [whole[a:b] for a, b in pairwise(edges)]

    assert [m.data for m in read_messages(chunks)] == [text, "next"]


def test_a_batch_holds_the_metrics_logged_together() -> None:
    rows = [Row(1, 10.0, {"a": 1.0}), Row(2, 20.0, {"a": 2.0, "b": math.inf}), Row(3, 30.0, {"a": 3.0})]

    first, second = batches(rows)

    assert (first["step"], first["time"], first["values"]) == ([1, 3], [10.0, 30.0], {"a": [1.0, 3.0]})
    assert second["values"] == {"a": [2.0], "b": ["Infinity"]}
    assert first["batch"] != second["batch"]
