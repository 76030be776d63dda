"""The hub: tails the database for watched runs and fans out to event streams.

Nothing is pushed to it. Every tick it compares revisions of the watched rows, reads what was flushed since, encodes it
once and hands the bytes to every stream that watches. A stream that starts, or comes back with `Last-Event-ID`, first
catches up from the database; so no point is lost or doubled whatever happens to the process or to Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy import bindparam, func
from sqlmodel import Session, col, select

from app import listing, series
from app.columns import json_floats
from app.db import Database, now
from app.departures import Departures
from app.errors import TooMany, TrainyardError, Unavailable
from app.guard import is_loopback
from app.models import ENDED, MetricChunk, Run

log = logging.getLogger(__name__)

TICK_S = 0.1
TICK_S_EACH = 0.00125  # a stream: a full house is told less often and more at once, which costs less CPU
MAX_TICK_S = 0.3
RUN_EVENT_S = 1.0  # progress at most this often; a change of state at once
PING_S = 15.0
QUEUE_ITEMS = 256  # a stream further behind than this is closed; it catches up when it reconnects
MAX_STREAMS = 1_000
MAX_STREAMS_EACH = 100  # of one address: a browser has one a tab, but a class may share an address
MAX_REPLAY_POINTS = 200_000
REPLAY_CHUNKS = 600
ALL = "*"  # in event ids of the all-runs view: up to when it was told, in milliseconds
FIRST_S = 60.0  # how far back the all-runs view begins: its page may be older than its stream
RECENT_S = 10.0  # how far back the all-runs view looks again, for commits that came late


# Built once: asked ten times a second.
_AMONG = col(Run.id).in_(bindparam("ids", expanding=True))
_WATCHED = select(Run.id, Run.revision, Run.seq).where(_AMONG)
# What is told at once when it changes, beside the revision.
_KEY: list[Any] = [
    Run.attempt, Run.state, Run.phase, Run.cancel_requested, Run.pause_requested, Run.name, Run.tags
]  # fmt: skip
_TOLD = select(Run.id, Run.revision, *_KEY).where(_AMONG)


class Item(NamedTuple):
    """One event of one run; `seq` is the run's cursor once it is seen.

    `text` is the event as it is sent, encoded once for all streams; each ends it with an id of its own.
    """

    run_id: str
    seq: int
    event: str
    text: bytes


@dataclass(eq=False)
class Stream:
    """One open event stream. `cursors` is what its client has seen; an empty `runs` watches all, without points."""

    runs: tuple[str, ...]
    cursors: dict[str, int]
    client: str = ""
    inbox: list[Item] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def offer(self, item: Item) -> None:
        if self.closed:
            return
        if len(self.inbox) >= QUEUE_ITEMS:
            self.close()
            return
        self.inbox.append(item)
        self.ready.set()

    def close(self) -> None:
        """Drops what waits, all of it: an event id must never be told before one that it follows."""
        self.closed = True
        self.inbox.clear()
        self.ready.set()

    async def take(self) -> list[Item]:
        """What has come, once something has; empty for a ping and at the end."""
        await self.ready.wait()
        self.ready.clear()
        items, self.inbox = self.inbox, []
        return items


@dataclass
class Seen:
    """What the hub knows of a watched run: it tells the flushes behind `began`, and has told them up to `seq`."""

    began: int
    seq: int
    attempt: int = 0
    revision: int = -1
    sent_at: float = 0.0
    key: tuple[object, ...] = ()


class Hub:
    """One a process. All of its state belongs to the event loop; only reads run in threads."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._streams: set[Stream] = set()
        self._seen: dict[str, Seen] = {}
        self._all: dict[str, Seen] = {}
        self._departures = Departures()
        self._polled_at = 0.0
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.closing = False

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="hub"),
            asyncio.create_task(self._ping(), name="pings"),
        ]

    def close_streams(self) -> None:
        """End every open stream, so that the process can stop; browsers reconnect by themselves."""
        self.closing = True
        for stream in self._streams:
            stream.close()

    async def stop(self) -> None:
        self.close_streams()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def watchers(self) -> int:
        return len(self._streams)

    # -- a stream's side ----------------------------------------------------------------------------------------

    def check_room(self, client: str) -> None:
        """Before an answer begins, for then its status is told. Addresses of this machine may have all streams.

        Raises: TooMany for this client; Unavailable when too many are open in all.
        """
        if len(self._streams) >= MAX_STREAMS or self.closing:
            raise Unavailable("too many event streams are open; close some pages and try again")
        if is_loopback(client):
            return
        if sum(stream.client == client for stream in self._streams) >= MAX_STREAMS_EACH:
            raise TooMany(f"{MAX_STREAMS_EACH} event streams of your address are open; close some pages")

    async def stream(
        self, runs: Sequence[str], cursors: Mapping[str, int], client: str = ""
    ) -> AsyncGenerator[bytes]:
        """Server-sent events for these runs, from these cursors on; without runs, the states of all.

        Raises: Unavailable when the process is about to stop.
        """
        if self.closing:
            raise Unavailable("the server is about to stop; try again in a moment")
        stream = Stream(
            tuple(dict.fromkeys(runs)), {run: cursors.get(run, 0) for run in runs or [ALL]}, client
        )
        if not stream.runs and not self._all_watched():
            self._departures = Departures()  # what went while nobody watched is on no page
        self._streams.add(stream)  # before catching up: what is flushed meanwhile waits in the inbox
        self._wake.set()
        try:
            yield format_sse_event(retry=2000, comment="trainyard")
            if not stream.runs:
                recent = await asyncio.to_thread(self._recent, stream.cursors[ALL])
                yield b"".join(self._encode(stream, item) for item in recent)
            for run_id in stream.runs:
                async for batch in self._catch_up(stream, run_id):
                    yield batch
            async for batch in self._follow(stream):
                yield batch
        finally:
            self._streams.discard(stream)
            self._forget_unwatched()

    async def _catch_up(self, stream: Stream, run_id: str) -> AsyncIterator[bytes]:
        """The run as it is, then its points from the cursor on, then the run again if it has ended: a client that
        stops at the end of a run has seen all of it.

        Only up to the moment of asking: what is flushed from then on comes by the inbox, or a full house would catch
        up with a busy run for ever.
        """
        told, more = -1, True
        while more:
            items, told, more = await asyncio.to_thread(self._replay, run_id, stream.cursors[run_id], told)
            yield b"".join(self._encode(stream, item) for item in items)
            if items and items[-1].event == "gone":
                return
            if not more:
                cursor = stream.cursors[run_id]
                # Another stream that asked later may have made the hub begin behind what this one was told.
                more = self._seen.setdefault(run_id, Seen(cursor, cursor)).began > cursor
        self._wake.set()

    async def _follow(self, stream: Stream) -> AsyncIterator[bytes]:
        while not stream.closed:
            fresh = [item for item in await stream.take() if not self._is_old(stream, item)]
            yield b"".join(self._encode(stream, item) for item in fresh) or KEEPALIVE_COMMENT

    @staticmethod
    def _is_old(stream: Stream, item: Item) -> bool:
        return item.event == "points" and item.seq <= stream.cursors.get(item.run_id, 0)

    def _encode(self, stream: Stream, item: Item) -> bytes:
        if not stream.runs:
            stream.cursors[ALL] = max(stream.cursors[ALL], int(self._polled_at * 1000))
        elif item.event in ("points", "resync"):
            stream.cursors[item.run_id] = item.seq
        return b"%bid: %b\n\n" % (item.text, write_cursors(stream.cursors).encode())

    def _forget_unwatched(self) -> None:
        watched = {run for stream in self._streams for run in stream.runs}
        for run_id in self._seen.keys() - watched:
            del self._seen[run_id]

    # -- the tail -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            if not self._streams:
                self._wake.clear()
                await self._wake.wait()
            try:
                everything = self._all_watched()
                seen, all_seen = copy_seen(self._seen), copy_seen(self._all)
                items = await asyncio.to_thread(self._poll, seen, all_seen, everything)
                # Only now, for a tick that fails has told nothing. Who came or went meanwhile stays so.
                self._seen |= {run: known for run, known in seen.items() if run in self._seen}
                self._all = all_seen
                self._fan_out(items)
            except TrainyardError as error:
                log.warning("hub: %s", error.message)
                await asyncio.sleep(1)
            except Exception:
                log.exception("hub: tick failed")
                await asyncio.sleep(1)
            await asyncio.sleep(min(MAX_TICK_S, max(TICK_S, TICK_S_EACH * len(self._streams))))

    async def _ping(self) -> None:
        """A comment to each stream now and then: a proxy cuts off what is silent, and we notice who has gone."""
        while True:
            await asyncio.sleep(PING_S)
            for stream in self._streams:
                stream.ready.set()

    def _all_watched(self) -> bool:
        return any(not stream.runs for stream in self._streams)

    def _fan_out(self, items: list[Item]) -> None:
        for item in items:
            for stream in self._streams:
                watches = item.run_id in stream.cursors if stream.runs else item.event in ("run", "gone")
                if watches:
                    stream.offer(item)
            if item.event == "gone":
                self._seen.pop(item.run_id, None)

    def _poll(self, seen: dict[str, Seen], all_seen: dict[str, Seen], everything: bool) -> list[Item]:
        """What has happened since the last tick; updates what it is given. Runs in a thread."""
        items: list[Item] = []
        with self._db.read() as s:
            self._polled_at = at = now(s)
            if seen:
                items += self._poll_watched(s, seen, at)
            if everything:
                items += self._poll_all(s, at, all_seen, seen)
        return items

    def _poll_watched(self, s: Session, seen: Mapping[str, Seen], at: float) -> list[Item]:
        rows = s.connection().execute(_WATCHED, {"ids": list(seen)}).all()
        there = {run_id: (revision, seq) for run_id, revision, seq in rows}
        items = [_gone(run_id) for run_id in seen.keys() - there.keys()]
        points: list[Item] = []
        for run_id, (_, seq) in there.items():
            if seq > seen[run_id].seq:
                chunks = series.read_since(s, run_id, seen[run_id].seq, REPLAY_CHUNKS)
                points += points_items(chunks)
                seen[run_id].seq = chunks[-1].seq if chunks else seq
        before = {run_id: known.attempt for run_id, known in seen.items()}
        changed = [
            run_id
            for run_id, (revision, seq) in there.items()
            if revision != seen[run_id].revision and seq <= seen[run_id].seq  # else: points first, next tick
        ]
        states = _run_items(s, changed, seen)
        # A new attempt takes points back, so it is told before the points that follow; an end is told after them.
        restarted = [item for item in states if seen[item.run_id].attempt != before[item.run_id]]
        return items + restarted + points + [item for item in states if item not in restarted]

    def _poll_all(
        self, s: Session, at: float, all_seen: dict[str, Seen], seen: Mapping[str, Seen]
    ) -> list[Item]:
        query = select(Run.id, Run.revision).where(col(Run.updated_at) > at - RECENT_S).limit(1_000)
        rows = {run_id: revision for run_id, revision in s.exec(query).all() if run_id not in seen}
        for run_id in all_seen.keys() - rows.keys():
            del all_seen[run_id]
        for run_id in rows:
            all_seen.setdefault(run_id, Seen(0, 0))
        changed = [run_id for run_id, revision in rows.items() if revision != all_seen[run_id].revision]
        states = _run_items(s, changed, all_seen)
        gone = self._departures.look(s, at) - seen.keys()  # last: what it has seen, it does not see again
        return [_gone(run_id) for run_id in gone] + states

    def _recent(self, told_ms: int) -> list[Item]:
        """The runs that changed since the all-runs view was told, as they are now. Runs in a thread."""
        with self._db.read() as s:
            since = told_ms / 1000 - RECENT_S if told_ms else now(s) - FIRST_S
            query = select(Run).where(col(Run.updated_at) > since).order_by(col(Run.updated_at).desc())
            changed = s.exec(query.limit(1_000)).all()[::-1]
            return _as_they_are(s, changed)

    def _replay(self, run_id: str, cursor: int, told: int) -> tuple[list[Item], int, bool]:
        """Events that bring a stream from `cursor` on to now, the attempt that they are of, and whether more wait.

        The run itself comes first when the client was `told` of another attempt, or of none (-1). Runs in a thread.
        """
        with self._db.read() as s:
            run = s.exec(select(Run).where(col(Run.id) == run_id)).first()
            if run is None:
                return [_gone(run_id)], told, False
            (state,) = _as_they_are(s, [run])
            points, more = _replay_points(s, run, cursor)
        begins = run.attempt != told
        ended = run.state in ENDED and not more and (bool(points) or not begins)
        return [state] * begins + points + [state] * ended, run.attempt, more


def _replay_points(s: Session, run: Run, cursor: int) -> tuple[list[Item], bool]:
    behind = (col(MetricChunk.run_id) == run.id, col(MetricChunk.seq) > cursor)
    waiting = s.exec(select(func.sum(col(MetricChunk.count))).where(*behind)).one()
    if cursor > run.seq or (waiting or 0) > MAX_REPLAY_POINTS:
        return [_item(run.id, run.seq, "resync", {"run": run.id})], False
    chunks = series.read_since(s, run.id, cursor, REPLAY_CHUNKS)
    return points_items(chunks), bool(chunks) and chunks[-1].seq < run.seq


def copy_seen(seen: Mapping[str, Seen]) -> dict[str, Seen]:
    return {run_id: replace(known) for run_id, known in seen.items()}


def _item(run_id: str, seq: int, event: str, body: object) -> Item:
    data = json.dumps(body, separators=(",", ":"), allow_nan=False)  # one line, and in ASCII
    return Item(run_id, seq, event, f"event: {event}\ndata: {data}\n".encode())


def _gone(run_id: str) -> Item:
    return _item(run_id, 0, "gone", {"run": run_id})


def _run_items(s: Session, run_ids: Sequence[str], seen: Mapping[str, Seen]) -> list[Item]:
    """`run` events of changed runs: at once when more than progress changed, otherwise once a second."""
    if not run_ids:
        return []
    at = time.monotonic()  # of no clock that may be set
    due = []
    for run_id, revision, attempt, *rest in s.connection().execute(_TOLD, {"ids": list(run_ids)}):
        known, key = seen[run_id], (attempt, *rest)
        if key != known.key or at - known.sent_at >= RUN_EVENT_S:
            known.key, known.sent_at = key, at
            known.revision, known.attempt = revision, attempt
            due.append(run_id)
    return _as_they_are(s, s.exec(select(Run).where(col(Run.id).in_(due))).all()) if due else []


def _as_they_are(s: Session, found: Sequence[Run]) -> list[Item]:
    """One `run` event a run."""
    return [
        _item(run.id, run.seq, "run", brief)
        for run, brief in zip(found, listing.briefs(s, found), strict=True)
    ]


def points_items(flushed: Iterable[series.Flushed]) -> list[Item]:
    """One `points` event a flush, all of its metrics together."""
    items = []
    for (run_id, seq), flush in groupby(flushed, key=lambda one: (one.run_id, one.seq)):
        columns = [_points_json(one) for one in flush]
        items.append(_item(run_id, seq, "points", {"series": columns}))
    return items


def _points_json(flushed: series.Flushed) -> dict[str, Any]:
    block = flushed.block
    return {
        "run": flushed.run_id,
        "metric": flushed.metric,
        "step": block.steps.tolist(),
        "time": block.times.round(3).tolist(),
        "value": json_floats(block.values),
        "cursor": flushed.seq,
    }


def write_cursors(cursors: Mapping[str, int]) -> str:
    return ",".join(f"{run}:{seq}" for run, seq in cursors.items())


def read_cursors(text: str) -> dict[str, int]:
    """The cursors of an event id. What cannot be read is left out: such a run is told again from its start."""
    pairs = (part.rpartition(":") for part in text.split(","))
    return {
        run: int(seq) for run, _, seq in pairs if run and seq.isascii() and seq.isdigit() and len(seq) < 16
    }
