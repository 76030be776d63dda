"""Readers of the event stream that reconnect as a browser's EventSource does, each in a thread of its own."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from app.models import ENDED
from tests.faults.yard import Yard
from tests.processes import wait_for
from trainyard.sse import read_messages

RETRY_S = 0.2
SILENT_S = 30.0  # a stream says something every 15 s


class Follower:
    """Reads one run's stream to the run's end. `steps` are those of train/loss, in the order in which they came."""

    def __init__(self, url: str, run_id: str) -> None:
        self._url, self._run_id = url, run_id
        self.steps: list[int] = []
        self.connections = 0
        self.told_at = 0.0  # monotonic seconds of the last points
        self._last_id = ""
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._read():
                    return
            except httpx.HTTPError:
                pass  # the server is gone; the next one is asked for what comes behind the last id
            self._stop.wait(RETRY_S)

    def _read(self) -> bool:
        """Whether the run has ended and all of it was told."""
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        with (
            httpx.Client(base_url=self._url, trust_env=False, timeout=SILENT_S) as http,
            http.stream("GET", "/api/v1/events", params={"run": self._run_id}, headers=headers) as response,
        ):
            response.raise_for_status()
            self.connections += 1
            for message in read_messages(response.iter_raw()):
                self._last_id = message.id
                body = json.loads(message.data)
                if message.event == "points":
                    self._take(body["series"])
                if message.event == "run" and body["state"] in ENDED and self.steps[-1:] == [body["step"]]:
                    return True
                if self._stop.is_set():
                    return True
        return False

    def _take(self, series: list[dict[str, object]]) -> None:
        self.told_at = time.monotonic()
        for one in series:
            if one["metric"] == "train/loss":
                assert isinstance(one["step"], list)
                self.steps += one["step"]


@contextmanager
def following(yard: Yard, run_id: str, count: int = 1) -> Iterator[list[Follower]]:
    """Followers that have all been told something. They read to the run's end, which must come within the block."""
    followers = [Follower(yard.web.url, run_id) for _ in range(count)]
    for follower in followers:
        follower.thread.start()
    try:
        wait_for(lambda: all(follower.steps for follower in followers), "every stream's first points", 90)
        yield followers
        for follower in followers:
            follower.thread.join(90)
            assert not follower.thread.is_alive(), f"a stream stopped at step {follower.steps[-1:]}"
    finally:
        for follower in followers:
            follower.stop()


def assert_told_once(follower: Follower, last_step: int) -> None:
    """Every step from 1 to the last came once and in order, however often the stream was cut."""
    seen, wanted = follower.steps, list(range(1, last_step + 1))
    if seen != wanted:
        missing = sorted(set(wanted) - set(seen))
        twice = sorted(step for step, count in Counter(seen).items() if count > 1)
        raise AssertionError(
            f"of {last_step} steps {missing} are missing, {twice} came again, over {follower.connections} connections"
        )
