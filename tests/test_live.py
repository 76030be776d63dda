"""The event stream: what was missed is told, nothing twice, whoever else listens and however slowly."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from sqlmodel import col, update

from app import live, runs, series
from app.db import Database
from app.errors import Unavailable
from app.live import Hub, read_cursors, write_cursors
from app.models import Run
from app.runs import NewRun
from ml.spec import RunSpec
from tests.processes import Stack
from trainyard.sse import Message, read_messages

Json = dict[str, Any]


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http as client:
        yield client


@contextmanager
def listen(
    stack: Stack, *run_ids: str, last: str | None = None, after: str | None = None
) -> Iterator[Iterator[Message]]:
    """The messages of one stream; each must come within 30 seconds."""
    headers = {"Last-Event-ID": last} if last is not None else {}
    query: Json = {"run": list(run_ids), **({"after": after} if after else {})}
    with (
        stack.http as client,
        client.stream("GET", "/api/v1/events", params=query, headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield read_messages(response.iter_raw())


def external(http: httpx.Client, name: str | None = None) -> str:
    response = http.post("/api/v1/runs", json={"external": True, "name": name})
    assert response.status_code == 201
    run_id: str = response.json()["id"]
    return run_id


def send(http: httpx.Client, run_id: str, *steps: int) -> None:
    values = {"train/loss": [1 / (1 + step) for step in steps], "train/lr": ["NaN"] * len(steps)}
    response = http.post(f"/api/v1/runs/{run_id}/metrics", json={"step": list(steps), "values": values})
    assert response.status_code == 200


def finish(http: httpx.Client, run_id: str) -> None:
    assert http.post(f"/api/v1/runs/{run_id}/finish", json={}).status_code == 200


def until_ended(messages: Iterator[Message], *run_ids: str) -> list[Message]:
    """Everything up to where each of these runs has ended and all of its points were told."""
    seen: list[Message] = []
    waiting = set(run_ids)
    for message in messages:
        seen.append(message)
        body = json.loads(message.data)
        if message.event == "run" and body["state"] == "finished":
            last = max((summary["last_step"] for summary in body["summary"].values()), default=0)
            at = read_cursors(message.id).get(body["id"], 0)
            if at == body["cursor"] or last in told(seen, body["id"]):
                waiting.discard(body["id"])
        if not waiting:
            return seen
    raise AssertionError("the stream ended before the runs")


def told(messages: list[Message], run_id: str, metric: str = "train/loss") -> list[int]:
    """Steps, in the order in which they came."""
    return [
        step
        for message in messages
        if message.event == "points"
        for one in json.loads(message.data)["series"]
        if (one["run"], one["metric"]) == (run_id, metric)
        for step in one["step"]
    ]


def flushed(messages: list[Message]) -> list[str]:
    return [message.data for message in messages if message.event == "points"]


# -- one stream ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ended_run(http: httpx.Client) -> str:
    run_id = external(http)
    for first in range(1, 31, 3):
        send(http, run_id, first, first + 1, first + 2)
    finish(http, run_id)
    return run_id


def test_a_new_stream_tells_the_run_then_all_its_points_then_its_end(stack: Stack, ended_run: str) -> None:
    with listen(stack, ended_run) as messages:
        seen = until_ended(messages, ended_run)
    assert [message.event for message in seen] == ["run", *["points"] * 10, "run"]
    assert told(seen, ended_run) == list(range(1, 31))
    first = json.loads(seen[1].data)["series"]
    assert [one["metric"] for one in first] == ["train/loss", "train/lr"]
    assert first[0]["value"] == [1 / 2, 1 / 3, 1 / 4]
    assert first[1]["value"] == ["NaN"] * 3
    assert len(first[0]["time"]) == 3


def test_a_stream_resumed_at_any_event_gets_exactly_the_rest(stack: Stack, ended_run: str) -> None:
    with listen(stack, ended_run) as messages:
        whole = until_ended(messages, ended_run)
    for at, message in enumerate(whole):
        with listen(stack, ended_run, last=message.id) as messages:
            rest = until_ended(messages, ended_run)
        assert flushed(rest) == flushed(whole[at + 1 :])


def test_after_does_as_last_event_id_does(stack: Stack, ended_run: str) -> None:
    with listen(stack, ended_run, after=f"{ended_run}:8") as messages:
        assert told(until_ended(messages, ended_run), ended_run) == list(range(25, 31))


@pytest.mark.parametrize("last", ["", "nonsense", "x:1,y", ":::", "%%%:-1", "a:99999999999999999999", ",,,"])
def test_an_id_that_cannot_be_read_starts_at_the_beginning(stack: Stack, ended_run: str, last: str) -> None:
    with listen(stack, ended_run, last=last) as messages:
        assert told(until_ended(messages, ended_run), ended_run) == list(range(1, 31))


def test_a_cursor_from_the_future_means_read_it_again(stack: Stack, ended_run: str) -> None:
    with listen(stack, ended_run, last=f"{ended_run}:999") as messages:
        assert [next(messages).event for _ in range(2)] == ["run", "resync"]


def test_ids_survive_the_round_trip() -> None:
    cursors = {"1m82zzz": 3, "other": 0}
    assert read_cursors(write_cursors(cursors)) == cursors


def test_several_runs_in_one_stream_resume_each_where_it_was(stack: Stack, http: httpx.Client) -> None:
    a, b = external(http), external(http)
    send(http, a, 1, 2)
    seen: list[Message] = []
    with listen(stack, a, b) as messages:
        while told(seen, a) != [1, 2]:
            seen.append(next(messages))
        send(http, b, 5)
        while told(seen, b) != [5]:
            seen.append(next(messages))
    send(http, a, 3)
    send(http, b, 6)
    with listen(stack, a, b, last=seen[-1].id) as messages:
        while (told(seen, a), told(seen, b)) != ([1, 2, 3], [5, 6]):
            seen.append(next(messages))
        finish(http, a)
        finish(http, b)
        seen += until_ended(messages, a, b)
    assert (told(seen, a), told(seen, b)) == ([1, 2, 3], [5, 6])


def test_a_deleted_run_is_gone(stack: Stack, http: httpx.Client) -> None:
    run_id = external(http)
    with listen(stack, run_id) as messages:
        assert next(messages).event == "run"
        finish(http, run_id)
        assert http.delete(f"/api/v1/runs/{run_id}").status_code == 204
        last = next(message for message in messages if message.event != "run")
        assert (last.event, json.loads(last.data)) == ("gone", {"run": run_id})
    with listen(stack, run_id) as messages:
        assert next(messages).event == "gone"


def test_a_gap_too_large_to_tell_is_read_again(stack: Stack, http: httpx.Client) -> None:
    run_id = external(http)
    for part in range(3):
        first = part * 70_000
        body = {"step": list(range(first, first + 70_000)), "values": {"m": [0.5] * 70_000}}
        assert http.post(f"/api/v1/runs/{run_id}/metrics", json=body).status_code == 200
    with listen(stack, run_id) as messages:
        seen = [next(messages) for _ in range(2)]
        assert [message.event for message in seen] == ["run", "resync"]
        send(http, run_id, 300_000)
        while told(seen, run_id) != [300_000]:
            seen.append(next(messages))
    with listen(stack, run_id, after=f"{run_id}:2") as messages:
        assert [next(messages).event for _ in range(2)] == ["run", "points"]
    finish(http, run_id)


# -- all runs ------------------------------------------------------------------------------------------------


def test_the_stream_of_all_runs_tells_states_and_no_points(stack: Stack, http: httpx.Client) -> None:
    before = external(http, "before")
    with listen(stack) as messages:
        seen: list[Json] = []

        def wait(run_id: str, state: str) -> None:
            while not any(run["id"] == run_id and run["state"] == state for run in seen):
                message = next(messages)
                assert message.event == "run"
                seen.append(json.loads(message.data))

        wait(before, "running")  # the page may have been made before it
        later = external(http, "later")
        send(http, later, 1)
        wait(later, "running")
        finish(http, later)
        wait(later, "finished")
    finish(http, before)


def test_the_stream_of_all_runs_tells_what_changed_while_it_was_away(
    stack: Stack, http: httpx.Client
) -> None:
    run_id = external(http)
    with listen(stack) as messages:
        last = next(message for message in messages if json.loads(message.data)["id"] == run_id)
    with listen(stack) as other:  # a second page is told at once; the first must not miss it for that
        finish(http, run_id)
        next(m for m in other if (b := json.loads(m.data))["id"] == run_id and b["state"] == "finished")
        with listen(stack, last=last.id) as messages:
            next(
                m for m in messages if (b := json.loads(m.data))["id"] == run_id and b["state"] == "finished"
            )


def test_the_stream_of_all_runs_tells_deletions(stack: Stack, http: httpx.Client) -> None:
    run_ids = [external(http, f"leaves {i}") for i in range(2)]
    for run_id in run_ids:
        finish(http, run_id)
    with listen(stack) as messages:
        next(messages)
        marker = external(http, "told by the hub, which has looked by then")
        next(m for m in messages if json.loads(m.data).get("id") == marker)
        http.delete(f"/api/v1/runs/{run_ids[0]}")
        new = external(http, "comes as the other leaves")
        gone = next(m for m in messages if m.event == "gone")
        assert json.loads(gone.data) == {"run": run_ids[0]}
    finish(http, new)
    finish(http, marker)


# -- while it trains -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_points_arrive_while_a_run_trains_and_none_twice(stack: Stack, http: httpx.Client) -> None:
    spec = {"dataset": "digits", "train_size": 512, "epochs": 4, "batch_size": 16}
    run_id = http.post("/api/v1/runs", json={"spec": spec}).json()["id"]
    with listen(stack, run_id) as messages:
        seen = until_ended(messages, run_id)
    assert told(seen, run_id) == list(range(1, 129))
    assert told(seen, run_id, "val/loss") == [32, 64, 96, 128]
    states = [json.loads(message.data)["state"] for message in seen if message.event == "run"]
    assert "running" in states
    assert states[-1] == "finished"


# -- many listeners ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_streams_get_the_same_points_though_one_client_never_reads(
    stack: Stack, http: httpx.Client
) -> None:
    run_id = external(http)
    host, port = stack.url.removeprefix("http://").split(":")
    ready = threading.Barrier(31)

    def follow(_: int) -> list[str]:
        with listen(stack, run_id) as messages:
            first = next(messages)
            ready.wait(60)
            return flushed([first, *until_ended(messages, run_id)])

    with socket.socket() as stalled, ThreadPoolExecutor(30) as pool:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect((host, int(port)))
        stalled.sendall(f"GET /api/v1/events?run={run_id} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        streams = [pool.submit(follow, n) for n in range(30)]
        ready.wait(60)
        for part in range(20):  # 20 x 5,000 points are more than the stalled connection holds
            send(http, run_id, *range(part * 5_000, (part + 1) * 5_000))
        finish(http, run_id)
        answers = [stream.result(60) for stream in streams]
    assert len(answers[0]) == 20
    assert all(answer == answers[0] for answer in answers)


# -- the hub itself, on a real database ----------------------------------------------------------------------


def make_run(db: Database) -> str:
    with db.begin() as s:
        return runs.create_run(s, NewRun(None), max_queued=10)[0].id


def append(db: Database, run_id: str, step: int) -> None:
    with db.begin() as s:
        block = series.make_block([step], [0.0], [float(step)])
        runs.append_external(s, run_id, None, {"m": block})


def events(data: bytes) -> list[Message]:
    return list(read_messages([data]))


async def first_events(stream: AsyncIterator[bytes], name: str) -> list[Message]:
    """Events up to the first batch that has one of this name."""
    found: list[Message] = []
    while not any(message.event == name for message in found):
        found += events(await asyncio.wait_for(anext(stream), 20))
    return found


def test_a_stream_that_falls_behind_is_closed_and_resumes_without_a_gap(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "QUEUE_ITEMS", 4)
    monkeypatch.setattr(live, "TICK_S", 0.01)
    run_id = make_run(db)

    async def scenario() -> list[int]:
        hub = Hub(db)
        hub.start()
        seen: list[Message] = []
        async with aclosing(hub.stream([run_id], {})) as slow:
            seen += await first_events(slow, "run")
            (stream,) = hub._streams
            first = asyncio.create_task(anext(slow))
            while run_id not in hub._seen:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(append, db, run_id, 1)
            seen += events(await asyncio.wait_for(first, 20))
            step = 1
            while not stream.closed:
                step += 1
                await asyncio.to_thread(append, db, run_id, step)
                await asyncio.sleep(0.02)
            async for data in slow:
                seen += events(data)
        last = seen[-1].id
        async with aclosing(hub.stream([run_id], read_cursors(last))) as again:
            while told(seen, run_id, "m")[-1:] != [step]:
                seen += events(await asyncio.wait_for(anext(again), 20))
        await hub.stop()
        assert told(seen, run_id, "m") == list(range(1, step + 1))
        return told(seen, run_id, "m")

    assert asyncio.run(scenario())


def test_a_stream_catches_up_with_a_run_that_never_rests(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something is flushed whenever it looks: it asks once, and the hub tells it the rest, without a gap."""
    run_id = make_run(db)
    append(db, run_id, 1)
    steps = iter(range(2, 1_000))
    replays = []
    replay = Hub._replay

    def busy(hub: Hub, *asked: Any) -> Any:
        replays.append(asked)
        found = replay(hub, *asked)
        append(db, run_id, next(steps))
        return found

    monkeypatch.setattr(Hub, "_replay", busy)

    async def scenario() -> None:
        hub = Hub(db)
        hub.start()
        seen: list[Message] = []
        async with aclosing(hub.stream([run_id], {})) as stream:
            while len(told(seen, run_id, "m")) < 5:
                seen += events(await asyncio.wait_for(anext(stream), 20))
                await asyncio.to_thread(append, db, run_id, next(steps))
        await hub.stop()
        assert told(seen, run_id, "m")[:5] == [1, 2, 3, 4, 5]
        assert len(replays) == 1

    asyncio.run(scenario())


def test_a_stream_that_was_told_before_the_hub_began_misses_nothing(db: Database) -> None:
    """One stream has read but not yet joined when another, that has read more, makes the hub begin."""
    run_id = make_run(db)
    append(db, run_id, 1)

    async def scenario() -> None:
        hub = Hub(db)
        hub.start()
        async with aclosing(hub.stream([run_id], {})) as early, aclosing(hub.stream([run_id], {})) as late:
            seen = await first_events(early, "points")  # and there it stays, as a slow reader does
            append(db, run_id, 2)
            assert told(await first_events(late, "points"), run_id, "m") == [1, 2]
            waiting = asyncio.create_task(anext(late))
            while run_id not in hub._seen:
                await asyncio.sleep(0.01)
            append(db, run_id, 3)
            assert told(events(await asyncio.wait_for(waiting, 20)), run_id, "m") in ([3], [])
            while told(seen, run_id, "m")[-1:] != [3]:
                seen += events(await asyncio.wait_for(anext(early), 20))
        await hub.stop()
        assert told(seen, run_id, "m") == [1, 2, 3]

    asyncio.run(asyncio.wait_for(scenario(), 40))


def test_a_tick_that_fails_has_told_nothing(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database fails between the points and the state: both are told by the next tick."""
    run_id = make_run(db)
    whole = live._run_items
    failures: list[Any] = []

    def fails(*asked: Any) -> list[live.Item]:
        if len(failures) < 2:
            failures.append(asked)
            raise Unavailable("the database does not answer")
        return whole(*asked)

    async def scenario() -> None:
        hub = Hub(db)
        hub.start()
        async with aclosing(hub.stream([run_id], {})) as stream:
            seen = await first_events(stream, "run")
            waiting = asyncio.create_task(anext(stream))
            while run_id not in hub._seen:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(live, "_run_items", fails)
            append(db, run_id, 1)
            seen += events(await asyncio.wait_for(waiting, 20))
            while told(seen, run_id, "m") != [1]:
                seen += events(await asyncio.wait_for(anext(stream), 20))
        await hub.stop()
        assert len(failures) == 2

    asyncio.run(asyncio.wait_for(scenario(), 40))


def test_streams_that_end_leave_nothing_behind(db: Database) -> None:
    run_id = make_run(db)

    async def scenario() -> None:
        hub = Hub(db)
        hub.start()
        streams = [hub.stream([run_id], {}) for _ in range(20)]
        for stream in streams:
            await first_events(stream, "run")
        assert hub.watchers() == 20
        for stream in streams:
            await stream.aclose()
        assert hub.watchers() == 0
        assert hub._seen == {}
        await hub.stop()

    asyncio.run(scenario())


def test_a_closing_hub_ends_its_streams_and_takes_no_more(db: Database) -> None:
    run_id = make_run(db)

    async def scenario() -> None:
        hub = Hub(db)
        hub.start()
        async with aclosing(hub.stream([run_id], {})) as stream:
            await first_events(stream, "run")
            hub.close_streams()
            async with asyncio.timeout(20):
                assert [data async for data in stream] == []
        with pytest.raises(Unavailable):
            await anext(hub.stream([run_id], {}))
        await hub.stop()

    asyncio.run(scenario())


def test_points_not_told_when_the_process_stops_are_told_by_the_next(db: Database) -> None:
    run_id = make_run(db)

    async def scenario() -> None:
        hub = Hub(db)
        async with aclosing(hub.stream([run_id], {})) as stream:
            seen = await first_events(stream, "run")
            (inbox,) = hub._streams
            for step in (1, 2, 3):
                append(db, run_id, step)
            with db.read() as s:
                for item in live.points_items(series.read_since(s, run_id, 0, 100)):
                    inbox.offer(item)
            hub.close_streams()
            async for data in stream:
                seen += events(data)
        cursors = read_cursors(seen[-1].id)
        async with aclosing(Hub(db).stream([run_id], cursors)) as again:
            seen += await first_events(again, "points")
        assert told(seen, run_id, "m") == [1, 2, 3]

    asyncio.run(scenario())


def test_a_new_attempt_is_told_before_the_points_it_writes_again(db: Database) -> None:
    with db.begin() as s:
        run_id = runs.create_run(s, NewRun(RunSpec()), max_queued=10)[0].id
        runs.claim_run(s, run_id, "w1", 20)

    def report(attempt: int, seq: int, *steps: int) -> None:
        block = series.make_block(steps, np.zeros(len(steps)), [float(attempt)] * len(steps))
        with db.begin() as s:
            runs.report(s, run_id, attempt, seq, {"m": block}, lease_s=20)

    async def scenario() -> None:
        hub = Hub(db)
        hub.start()
        report(1, 1, 1, 2)
        async with aclosing(hub.stream([run_id], {})) as stream:
            seen = await first_events(stream, "points")
            with db.begin() as s:
                runs.release_run(s, run_id, 1, "w1", "shutdown")
                s.execute(update(Run).values(not_before=0).where(col(Run.id) == run_id))
                runs.claim_run(s, run_id, "w2", 20)
            report(2, 2, 1)
            while told(seen, run_id, "m") != [1, 2, 1]:
                seen += events(await asyncio.wait_for(anext(stream), 20))
        order = [json.loads(m.data)["attempt"] if m.event == "run" else m.event for m in seen]
        assert order.index(2) < len(order) - 1 - order[::-1].index("points")
        await hub.stop()

    asyncio.run(scenario())
