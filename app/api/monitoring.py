"""`/metrics`: what Prometheus reads. Each web process reports itself, and what the database holds for all of them."""

from __future__ import annotations

import logging
import platform
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response

from app import counters, queue
from app.census import Census, newest_event, take_census, transitions_after
from app.db import Database
from app.errors import TrainyardError
from app.live import Hub
from app.settings import Settings

log = logging.getLogger(__name__)
router = APIRouter(tags=["system"])

KEEP_S = 5.0  # scrapes closer together than this share one look at the database and the broker
OWN = (  # what this process has counted: name, what it says, the label's name
    (counters.REAPED, "Runs that this process took from a silent worker, by the state they got.", "state"),
    (counters.REPUBLISHED, "Messages of waiting runs that this process sent again.", ""),
    (counters.LEASES_EXTENDED, "Times this process extended all leases because it had been asleep.", ""),
    (counters.COMPACTED, "Transactions in which this process merged chunks.", ""),
    (counters.POINTS_INGESTED, "Points that outside scripts sent to this process.", ""),
    (counters.BATCHES_INGESTED, "Batches of points that outside scripts sent to this process.", ""),
)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
def get_metrics(request: Request) -> Response:
    """The text format, or OpenMetrics where `Accept` asks for it. `trainyard_database_up` says if the rest is there."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    registry: CollectorRegistry = request.app.state.registry
    return Response(encode(registry), headers={"content-type": content_type, "cache-control": "no-store"})


def make_registry(db: Database, hub: Hub, settings: Settings) -> CollectorRegistry:
    """What one web process reports: not the library's global registry, which all applications of a process share."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(Yard(db, hub, settings))
    return registry


class Yard(Collector):
    """Reads database, broker, disk and counters when it is asked, at most every few seconds."""

    def __init__(self, db: Database, hub: Hub, settings: Settings) -> None:
        self._db, self._hub, self._settings = db, hub, settings
        self._lock = threading.Lock()
        self._read_at = -KEEP_S
        self._families: list[Metric] = []
        self._event: int | None = None  # the newest that was counted
        self._transitions: Counter[tuple[str, str, str]] = Counter()

    def collect(self) -> Iterable[Metric]:
        with self._lock:  # a second scraper waits for the first one's look
            if time.monotonic() - self._read_at >= KEEP_S:
                self._families = [*self._stored(), *self._broker(), *self._disk()]
                self._read_at = time.monotonic()
            return [*self._families, *self._own()]

    def _stored(self) -> Iterator[Metric]:
        census = None
        try:
            with self._db.read() as s:
                census = take_census(s)
                if self._event is None:
                    self._event = newest_event(s)
                found, self._event = transitions_after(s, self._event)
                self._transitions.update(found)
        except TrainyardError as error:
            log.warning("metrics: %s", error.message)
        yield gauge("database_up", "Whether the database answers.", census is not None)
        if census is not None:
            yield from describe(census)
        changes = CounterMetricFamily(
            "trainyard_run_transitions",
            "Changes of a run's state by anyone since this process started; the same in every web process.",
            labels=("from_state", "to_state", "by"),
        )
        for key, amount in self._transitions.items():
            changes.add_metric(key, amount)
        yield changes

    @staticmethod
    def _broker() -> Iterator[Metric]:
        depth = queue.depth()
        yield gauge("broker_up", "Whether the broker answers.", depth is not None)
        if depth is not None:
            yield gauge("broker_messages", "Messages that wait at the broker.", depth)

    def _disk(self) -> Iterator[Metric]:
        usage = shutil.disk_usage(self._settings.data_dir)
        yield gauge("disk_free_bytes", "Free on the disk that holds the data directory.", usage.free)
        yield gauge("disk_size_bytes", "Size of the disk that holds the data directory.", usage.total)
        if self._db.is_sqlite:
            wal = Path(f"{self._db.url.database}-wal")
            size = wal.stat().st_size if wal.exists() else 0
            yield gauge("database_wal_bytes", "Size of SQLite's write-ahead log.", size)

    def _own(self) -> Iterator[Metric]:
        yield gauge("sse_clients", "Event streams that are open at this process.", self._hub.watchers())
        for name, text, label in OWN:
            family = CounterMetricFamily(f"trainyard_{name}", text, labels=(label,) if label else ())
            found = counters.read(name) or ({} if label else {"": 0})
            for value, amount in found.items():
                family.add_metric((value,) if label else (), amount)
            yield family
        build = {"version": version("trainyard"), "python": platform.python_version()}
        yield InfoMetricFamily("trainyard_build", "What runs here.", build)


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"trainyard_{name}", text, value)


def describe(census: Census) -> Iterator[Metric]:
    runs = GaugeMetricFamily("trainyard_runs", "Runs in each state.", labels=("state",))
    for state, amount in census.runs.items():
        runs.add_metric((state,), amount)
    yield runs
    yield gauge("queue_waiting", "Runs that wait for a slot.", census.waiting)
    yield gauge("queue_oldest_wait_seconds", "How long the first of them has waited.", census.oldest_wait_s)
    yield gauge("workers", "Workers heard of in the last 15 seconds.", census.workers)
    slots = GaugeMetricFamily("trainyard_slots", "Slots of these workers.", labels=("use",))
    slots.add_metric(("busy",), census.busy)
    slots.add_metric(("free",), max(0, census.slots - census.busy))
    yield slots
    yield gauge("worker_silence_seconds", "Since the quietest of them was heard.", census.oldest_worker_age_s)
    yield gauge("points_stored", "Points of all runs in the database.", census.points)
    yield gauge("flushes_stored", "Flushes that wrote them.", census.flushes)
    yield gauge("database_size_bytes", "Size of the database.", census.size_bytes)
