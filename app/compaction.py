"""Compaction: many small chunks of a run become few large ones, so that a reader fetches pixels and not flushes.

A trainer flushes four times a second: an hour of it is 14,400 rows a metric. Runs of whole flushes are merged, all
metrics of a run over the same flushes, into one chunk a metric of about CHUNK_POINTS points, kept under the last
flush's `seq`; `marks` remember which flush each point came with. So a reader's cursor may lie anywhere: it is given the
rest (`series.read_since`), and a merged group is torn as little as a flush is.

Each group is one short transaction that begins by locking the run's row, which every flush, claim, rewind and deletion
also writes to: nobody is seen half-way, and a crash leaves a whole number of groups. Doing it again changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, insert, or_, update
from sqlmodel import Session, col, select

from app import counters
from app.chunks import ChunkRow, merge_chunks
from app.db import Database, now
from app.models import ENDED, PAUSED, MetricChunk, Run
from app.series import CHUNK_COLUMNS

CHUNK_POINTS = 8_192  # 64 kB of times, 32 or 64 kB of values
MAX_FLUSHES = 1_024  # in one chunk: a run of one point a flush is not left in pieces for hours
LIVE_FLUSHES = 64  # the newest of a running run are left alone: its readers are just there
SETTLE_S = 10.0  # nor is a run touched that has only just ended, for the same reason
ROWS_AT_ONCE = 20_000
BUSY_S = 0.1  # of each second at most, about: what the process is there for comes first


def compact_some(db: Database, *, within_s: float = BUSY_S) -> int:
    """Merge groups of whatever runs need it, for about `within_s` seconds; how many transactions it took."""
    deadline = time.monotonic() + within_s
    done = 0
    with db.read() as s:
        waiting = find_uncompacted(s)
    for run_id in waiting:
        more = True
        while more:
            if time.monotonic() > deadline:
                return done
            with db.begin() as s:
                more = compact_group(s, run_id)
            done += 1
            counters.count(counters.COMPACTED)
    return done


def find_uncompacted(s: Session, limit: int = 20) -> Sequence[str]:
    """Ids of runs with flushes to merge."""
    return s.exec(select(Run.id).where(*_is_due(now(s))).limit(limit)).all()


def _is_due(at: float) -> tuple[ColumnElement[bool], ...]:
    rested = and_(col(Run.state).in_((*ENDED, PAUSED)), col(Run.updated_at) < at - SETTLE_S)
    long = col(Run.seq) - col(Run.compacted_seq) > MAX_FLUSHES + LIVE_FLUSHES
    return (col(Run.seq) > col(Run.compacted_seq), or_(rested, long))


def compact_group(s: Session, run_id: str) -> bool:
    """Merge the run's next group of flushes; whether there may be more to do.

    A run that somebody else holds at this moment, or that has gone, is left for the next time.
    """
    query = select(Run.seq, Run.compacted_seq, Run.state).where(col(Run.id) == run_id, *_is_due(now(s)))
    row = s.execute(query.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return False
    seq, before, state = row
    ended = state in (*ENDED, PAUSED)
    last = seq if ended else seq - LIVE_FLUSHES
    group, done = _next_group(s, run_id, before, last, ended=ended)
    if group:
        _merge(s, run_id, group)
    if done > before:
        s.execute(update(Run).where(col(Run.id) == run_id).values(compacted_seq=done))
    return bool(before < done < last)


def _next_group(s: Session, run_id: str, after: int, last: int, *, ended: bool) -> tuple[list[int], int]:
    """The flushes to merge into the next chunk, as many as fit, and up to which one there is nothing else to do.

    A flush as large as a chunk stays as it is. Of a run that goes on only a full group is merged.
    """
    query: Any = (
        select(MetricChunk.seq, MetricChunk.metric, col(MetricChunk.count).label("points"))
        .where(col(MetricChunk.run_id) == run_id, col(MetricChunk.seq) > after, col(MetricChunk.seq) <= last)
        .order_by(col(MetricChunk.seq))
        .limit(ROWS_AT_ONCE)
    )
    rows = s.execute(query).all()
    group: list[int] = []
    points: dict[str, int] = {}
    for seq, chunks in groupby(rows, key=lambda row: row.seq):
        flush = {row.metric: row.points for row in chunks}
        grown = points | {metric: points.get(metric, 0) + count for metric, count in flush.items()}
        if group and (len(group) == MAX_FLUSHES or max(grown.values()) > CHUNK_POINTS):
            if len(group) > 1:
                return group, group[-1]
            group, grown, after = [], flush, group[0]
        group.append(seq)
        points = grown
    if len(rows) == ROWS_AT_ONCE:  # the last flush may have more chunks
        group = group[:-1]
    elif not ended:
        return [], after
    else:
        after = last
    return (group, max(after, group[-1])) if len(group) > 1 else ([], after)


def _merge(s: Session, run_id: str, group: Sequence[int]) -> None:
    within: tuple[Any, ...] = (
        col(MetricChunk.run_id) == run_id,
        col(MetricChunk.seq) >= group[0],
        col(MetricChunk.seq) <= group[-1],
    )
    query = select(*CHUNK_COLUMNS).where(*within).order_by(col(MetricChunk.metric), col(MetricChunk.seq))
    series: dict[str, list[ChunkRow]] = {}
    for row in s.execute(query):
        chunk = ChunkRow(*row)
        series.setdefault(chunk.metric, []).append(chunk)
    s.execute(delete(MetricChunk).where(*within))
    merged = [merge_chunks(chunks, group[-1]) for chunks in series.values()]
    s.connection().execute(insert(MetricChunk), merged)
