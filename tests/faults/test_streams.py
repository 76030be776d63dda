"""F20, F21: the web process stops under open event streams; clients that never read."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from tests.faults.figures import Figures
from tests.faults.followers import Follower, assert_told_once, following
from tests.faults.invariants import assert_intact
from tests.faults.yard import LONG, Json, Yard
from tests.processes import wait_for
from trainyard.sse import Message, read_messages

STREAMS = 50
STALLED = 30
POINTS, FLUSHES = 500, 600  # more than a stalled connection and its inbox hold


def test_streams_go_on_at_the_next_web_process(crewed: Yard, figures: Figures) -> None:
    """F20 web SIGTERM with 50 streams: it ends soon, all reconnect to the next and miss nothing."""
    run_id = crewed.submit(LONG)
    crewed.wait_steps(run_id, 5)
    with following(crewed, run_id, STREAMS) as followers:
        figures.strike()
        old = crewed.web.process
        assert old.stop(signal.SIGTERM, within_s=40) == 0
        figures.since(crewed.backend, f"exit with {STREAMS} streams")
        assert "Traceback" not in old.output()
        crewed.start_web()
        told = [len(follower.steps) for follower in followers]
        wait_for(
            lambda: all(len(f.steps) > n for f, n in zip(followers, told, strict=True)),
            "new points for all",
            90,
        )
        figures.since(crewed.backend, "all told new points")
        crewed.cancel(run_id)
    run = assert_intact(crewed, run_id)
    assert run.attempt == 1
    for follower in followers:
        assert follower.connections >= 2
        assert_told_once(follower, run.step)


def test_clients_that_never_read_hold_nobody_up(yard: Yard, figures: Figures) -> None:
    """F21 30 streams that never read: the others are told at once; these are cut, and resume without a gap."""
    run_id = yard.http.post("/api/v1/runs", json={"external": True}).raise_for_status().json()["id"]
    send(yard, run_id, 0)
    delays = []
    with following(yard, run_id, 3) as followers, ExitStack() as stack:
        stalled = [stack.enter_context(a_stalled_stream(yard, run_id)) for _ in range(STALLED)]
        for flush in range(1, FLUSHES):
            sent_at = time.monotonic()
            send(yard, run_id, flush)
            if flush % 20 == 0:
                wait_for(partial(all_have, followers, (flush + 1) * POINTS), "the points", 60)
                delays.append(max(f.told_at for f in followers) - sent_at)
        for seconds in delays:
            figures.note(yard.backend, "told to healthy ones", seconds)
        yard.http.post(f"/api/v1/runs/{run_id}/finish", json={}).raise_for_status()
        cut = [read_to_the_end(connection) for connection in stalled]
    total = FLUSHES * POINTS
    for follower in followers:
        assert_told_once(follower, total)
        assert follower.connections == 1
    for messages in cut:
        assert len(told(messages)) < total, "it was never cut"
    furthest = max(cut, key=lambda messages: len(told(messages)))
    assert resume(yard, run_id, furthest, total) == list(range(1, total + 1))


def resume(yard: Yard, run_id: str, seen: list[Message], total: int) -> list[int]:
    """The steps that a client has in the end which was told `seen` and then cut."""
    seen = list(seen)
    headers = {"Last-Event-ID": seen[-1].id}
    with yard.http.stream("GET", "/api/v1/events", params={"run": run_id}, headers=headers) as response:
        for message in read_messages(response.iter_raw()):
            if message.event == "resync":  # it is too far behind
                break
            seen.append(message)
            if len(told(seen)) >= total:
                return told(seen)
    return list(yard.series(run_id)["train/loss"].steps)


def all_have(followers: list[Follower], points: int) -> bool:
    return all(len(follower.steps) == points for follower in followers)


def send(yard: Yard, run_id: str, flush: int) -> None:
    steps = list(range(flush * POINTS + 1, (flush + 1) * POINTS + 1))
    body: Json = {"step": steps, "values": {"train/loss": [1 / step for step in steps]}}
    yard.http.post(f"/api/v1/runs/{run_id}/metrics", json=body).raise_for_status()


@contextmanager
def a_stalled_stream(yard: Yard, run_id: str) -> Iterator[socket.socket]:
    """A stream that was asked for and is not read."""
    host, port = yard.web.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((host, int(port)))
        request = (
            f"GET /api/v1/events?run={run_id} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(request.encode())
        yield connection


def read_to_the_end(connection: socket.socket) -> list[Message]:
    """What a stalled client finds when it reads at last: whole events, then the end."""
    data = b""
    with suppress(ConnectionResetError):  # it was cut off before it read
        while part := connection.recv(1 << 20):
            data += part
    _, _, body = data.partition(b"\r\n\r\n")
    return list(read_messages([unchunk(body)]))


def unchunk(body: bytes) -> bytes:
    """Without the framing of RFC 9112 section 7.1; a chunk cut off is left out."""
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0 or len(rest) < length + 2:
            break
        whole, body = whole + rest[:length], rest[length + 2 :]
    return whole


def told(messages: list[Message]) -> list[int]:
    return [
        step
        for message in messages
        if message.event == "points"
        for one in json.loads(message.data)["series"]
        for step in one["step"]
    ]
