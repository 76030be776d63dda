"""Many readers of the event stream in one process: `python -m benchmarks.streams URL CLIENTS RESULT.npz RUN...`.

Each follows one to four of the runs over a connection of its own, as a browser's page does, and comes back after two
seconds with its `Last-Event-ID` when it is cut off. It notes when each flush arrived; the first few also read every
point. It stays lean, because it shares the machine with what it measures. SIGTERM ends it; then it writes RESULT.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

POINTS = b'data: {"series":[{"run":"'
RETRY_S = 2.0


class Log:
    """What all readers saw: a row a flush and reader, a delay a point that was read."""

    def __init__(self, runs: Sequence[str]) -> None:
        self.index = {run.encode(): number for number, run in enumerate(runs)}
        self.reader, self.run, self.seq, self.at = array("i"), array("i"), array("i"), array("d")
        self.delays = array("d")  # seconds, from the moment that a step was done
        self.lost: Counter[str] = Counter()


class Reader(asyncio.Protocol):
    """One event stream. A `thorough` one reads every point of its first run and checks that it is the next."""

    def __init__(self, log: Log, number: int, url: str, runs: Sequence[str], *, thorough: bool) -> None:
        self.log, self.number, self.runs, self.thorough = log, number, list(runs), thorough
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        self.rest, self.last_id = b"", b""
        self.next_step: dict[str, int] = {}
        self.points = 0
        self.closing = False

    async def connect(self) -> None:
        self.rest = b""
        await asyncio.get_running_loop().create_connection(lambda: self, self.host, self.port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        query = "&".join(f"run={run}" for run in self.runs)
        head = f"GET /api/v1/events?{query} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
        head += "Accept: text/event-stream\r\n"
        head += f"Last-Event-ID: {self.last_id.decode()}\r\n" if self.last_id else ""
        cast(asyncio.Transport, transport).write(head.encode() + b"\r\n")  # uvloop's own is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closing:
            return
        self.log.lost["closed"] += 1
        loop = asyncio.get_running_loop()
        loop.call_later(RETRY_S, lambda: loop.create_task(self.connect()))

    def data_received(self, data: bytes) -> None:
        at = time.time()
        *whole, self.rest = (self.rest + data).split(b"\n\n")
        for event in whole:
            mark = event.rfind(b"\nid: ")
            if mark < 0:
                continue
            self.last_id = event[mark + 5 :]
            start = event.find(POINTS)
            if start >= 0:
                self.take(event, start, mark, at)
            elif b"event: resync" in event:
                self.log.lost["resync"] += 1

    def take(self, event: bytes, start: int, mark: int, at: float) -> None:
        run = event[start + len(POINTS) : event.index(b'"', start + len(POINTS))]
        cursor = event.index(run + b":", mark) + len(run) + 1
        log = self.log
        log.reader.append(self.number)
        log.run.append(log.index[run])
        log.seq.append(int(event[cursor:].partition(b",")[0]))
        log.at.append(at)
        if self.thorough and run.decode() == self.runs[0]:
            self.read(event[start + 6 : mark], at)

    def read(self, data: bytes, at: float) -> None:
        for series in json.loads(data)["series"]:
            self.points += len(series["step"])
            if not series["metric"].startswith("train/loss"):
                continue
            self.log.delays.extend(at - done for done in series["time"])
            for step in series["step"]:
                if step != self.next_step.setdefault("train/loss", 1):
                    self.log.lost["gap or duplicate"] += 1
                self.next_step["train/loss"] = step + 1


async def follow(url: str, clients: int, runs: Sequence[str]) -> tuple[Log, list[Reader]]:
    """Keep all readers connected until SIGTERM."""
    chance, log, readers = random.Random(0), Log(runs), []
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    for number in range(clients):
        first = runs[number % len(runs)]
        others = chance.sample(
            [run for run in runs if run != first], chance.randint(0, min(3, len(runs) - 1))
        )
        reader = Reader(log, number, url, [first, *others], thorough=number < len(runs))
        readers.append(reader)
        await reader.connect()
    await stopped.wait()
    for reader in readers:
        reader.closing = True
    return log, readers


def main(url: str, clients: int, result: Path, runs: Sequence[str]) -> None:
    began = time.process_time()
    log, readers = uvloop.run(follow(url, clients, runs))
    columns: dict[str, Any] = {
        name: np.array(getattr(log, name)) for name in ("reader", "run", "seq", "at", "delays")
    }
    watching = np.array([[run in reader.runs for run in runs] for reader in readers])
    np.savez(
        result, **columns, watching=watching, points=[r.points for r in readers if r.thorough],
        cpu_s=time.process_time() - began, lost=np.array([f"{n} {what}" for what, n in log.lost.items()], dtype=str),
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
