"""The Celery application, and `publish`: the message carries the run's id and nothing else.

The database is the queue of record. A message may be lost or doubled: the claim decides who trains.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from app.settings import get_settings
from ml.spec import MAX_DEVICES

log = logging.getLogger(__name__)

TASK = "trainyard.train_run"
QUEUE = "runs"


def queue_of(gpus: int) -> str:
    """Where messages of runs wait that cannot do without so many GPUs: none but a worker that has them reads there."""
    return f"{QUEUE}-{gpus}gpu" if gpus else QUEUE


def queues_for(gpus: int) -> list[str]:
    """What a worker reads whose slots have so many GPUs."""
    return [queue_of(count) for count in range(min(gpus, MAX_DEVICES) + 1)]


def make_celery(broker_url: str, **transport: float) -> Celery:
    """JSON only, early acknowledgement, no result backend: the lease in the database guarantees the rest."""
    celery = Celery("trainyard", broker=broker_url, set_as_current=False)
    celery.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=False,  # on Redis a late-acked task longer than the visibility timeout runs twice
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
            "socket_keepalive": not broker_url.startswith("redis+socket"),
            "health_check_interval": 10,
            **transport,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_publish_retry=False,  # the row is committed first; the reaper publishes again
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # no command but a run's id comes through the broker
        worker_hijack_root_logger=False,
        task_track_started=False,
        task_default_queue=QUEUE,
        task_time_limit=None,
    )
    return celery


def refuse_broker(urls: str) -> str | None:
    """Why this Redis may not be used, or None: whoever reaches one without a password rules all workers' queue."""
    for url in urls.split(";"):  # Celery takes several
        parts = urlsplit(url)
        guarded = parts.password or "ssl_certfile" in parts.query
        if parts.scheme in ("redis", "rediss", "sentinel") and not guarded and not _is_here(parts.hostname):
            return (
                f"refusing to use the Redis at {parts.hostname} without a password: whoever reaches it could start and "
                "stop runs here. Set `requirepass` there, and TRAINYARD_BROKER_URL to redis://:PASSWORD@HOST:6379/0"
            )
    return None


def _is_here(host: str | None) -> bool:
    try:
        return host in (None, "", "localhost") or ip_address(host or "").is_loopback
    except ValueError:  # a name
        return False


celery = make_celery(get_settings().broker_url)  # the worker's
# A request waits for this one, so it gives up soon: at once where nothing listens, after two seconds where it hangs.
publisher = make_celery(get_settings().broker_url, socket_timeout=2, max_retries=0)


def publish(run_id: str, gpus: int = 0) -> bool:
    """Tell the workers about a queued run that needs so many GPUs. False when the broker does not answer: the reaper
    will send it later."""
    try:
        publisher.send_task(TASK, args=[run_id], queue=queue_of(gpus), retry=False)
    except (OperationalError, KombuError, OSError) as error:
        log.warning(
            "broker not reachable, run %s stays queued in the database: %s", run_id, type(error).__name__
        )
        return False
    return True


def depth() -> int | None:
    """How many messages wait at the broker; None when it does not answer."""
    try:
        with _client() as client:
            return sum(int(client.llen(name)) for name in queues_for(MAX_DEVICES))
    except Exception as error:  # noqa: BLE001  # redis and kombu raise unrelated families; all mean the same here
        log.warning("broker not reachable: %s", type(error).__name__)
        return None


def ping() -> str | None:
    """None when the broker answers; otherwise why not, without its URL."""
    try:
        with _client() as client:
            client.ping()
    except Exception as error:  # noqa: BLE001  # as in `depth`
        name = type(error).__name__
        return f"the broker does not answer ({name}); check that Redis runs and TRAINYARD_BROKER_URL is right"
    return None


def describe() -> dict[str, Any]:
    """The broker's version and what it does when its memory is full. Raises: as `_client`, when it does not answer."""
    with _client() as client:
        told = client.info()
        return {
            "version": told["redis_version"],
            "maxmemory": told.get("maxmemory", 0),
            "policy": told.get("maxmemory_policy", ""),
        }


@contextmanager
def _client() -> Iterator[Any]:
    """The broker's Redis client, with the publisher's short patience."""
    with publisher.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        yield connection.default_channel.client
