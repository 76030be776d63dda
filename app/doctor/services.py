"""What has to answer: broker, web process, workers; the clocks; runs that do not get on."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
from sqlalchemy import func
from sqlmodel import Session, col, select

from app import queue
from app.db import Database, now
from app.doctor.finding import Finding, ok, problem, warning
from app.errors import TrainyardError
from app.guard import is_loopback
from app.models import QUEUED, RUNNING, Run
from app.settings import Settings
from app.workers import list_present

DRIFT_S = 2.0
LONG_WAIT_S = 600.0
WATCHED_S = 0.3


def is_up(settings: Settings) -> bool:
    """Whether a `trainyard up` has this data directory."""
    try:
        with (settings.data_dir / "up.lock").open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def check_broker(settings: Settings) -> Iterator[Finding]:
    name, parts = "broker", urlsplit(settings.broker_url)
    embedded = parts.scheme == "redis+socket"
    remote = not embedded and not is_loopback(parts.hostname or "")
    if remote and not parts.password:
        remedy = "set requirepass in redis.conf, and redis://:password@host in TRAINYARD_BROKER_URL"
        yield problem(name, "it is on another machine and asks for no password", remedy)
    if (wrong := queue.ping()) is not None:
        if embedded and not is_up(settings):
            yield ok(name, "does not run; `trainyard up` starts one of its own")
        else:
            yield problem(
                name, wrong, "restart it; queued runs wait in the database meanwhile and are not lost"
            )
        return
    told = queue.describe()
    if told["maxmemory"] and told["policy"] != "noeviction":
        remedy = "CONFIG SET maxmemory-policy noeviction; lost messages are sent again, but later"
        yield warning(name, f"Redis {told['version']} may throw messages away ({told['policy']})", remedy)
    else:
        yield ok(name, f"Redis {told['version']}, {queue.depth() or 0} messages wait")


def check_server(settings: Settings) -> Iterator[Finding]:
    name = "web process"
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    headers = {"authorization": f"Bearer {settings.token}"} if settings.token else {}
    try:
        with httpx.Client(trust_env=False, timeout=10, headers=headers) as client:
            alive, ready = client.get(f"{url}/healthz"), client.get(f"{url}/readyz")
    except httpx.TransportError:
        yield _describe_port(name, url, host, settings)
        return
    if alive.status_code != 200 or alive.headers.get("content-type") != "application/json":
        yield problem(name, f"something else answers at {url}", "choose another port with --port")
    elif ready.status_code in (401, 403):
        yield ok(name, f"answers at {url}; without a token (TRAINYARD_TOKEN) it says no more")
    elif ready.status_code != 200:
        wrong = "; ".join(text for text in ready.json()["checks"].values() if text != "ok")
        yield problem(name, f"at {url} is not ready: {wrong}", "see the lines on database and broker")
    else:
        yield ok(name, f"ready at {url}")
    yield from _compare_dates(alive)


def _describe_port(name: str, url: str, host: str, settings: Settings) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, settings.port))
        except PermissionError:
            return problem(name, f"you may not listen at {url}", "choose a port above 1023 with --port")
        except OSError as error:
            remedy = "end it, or choose another port with --port"
            return problem(
                name, f"{url} is taken by something that answers no HTTP ({error.strerror})", remedy
            )
    if is_up(settings):
        return warning(
            name, f"does not answer at {url}, though `trainyard up` runs", "set TRAINYARD_PORT to its port"
        )
    return ok(name, f"does not run; {url} is free for it")


def _compare_dates(answer: httpx.Response) -> Iterator[Finding]:
    """The `Date` header has whole seconds."""
    if date := answer.headers.get("date"):
        apart = abs(time.time() - parsedate_to_datetime(date).timestamp())
        if apart > DRIFT_S + 1:
            yield warning(
                "clock", f"the web process's is {apart:,.0f} s off", "synchronise both clocks (NTP)"
            )


def check_clock(settings: Settings) -> Iterator[Finding]:
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(WATCHED_S)
    jumped = (time.time() - wall) - (time.monotonic() - monotonic)
    if abs(jumped) > WATCHED_S / 3:
        yield warning(
            "clock", f"it jumped by {jumped:,.1f} s while watched", "see that NTP slews and does not step"
        )
    db = Database(settings.database_url)
    try:
        if db.is_sqlite:
            yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
            return
        with db.read() as s:
            began = time.time()
            apart = now(s) - (began + time.time()) / 2
    except TrainyardError:
        return  # the line on the database says why
    finally:
        db.dispose()
    if abs(apart) > DRIFT_S:
        yield warning(
            "clock", f"the database's is {apart:+,.1f} s off this machine's", "synchronise both clocks (NTP)"
        )
    else:
        yield ok("clock", f"agrees with the database's ({1000 * apart:+,.0f} ms)")


def check_workers(settings: Settings) -> Iterator[Finding]:
    db = Database(settings.database_url)
    try:
        if db.is_sqlite and not os.path.exists(db.url.database or ""):
            return
        with db.read() as s:
            yield from _judge_workers(s)
            yield from _judge_runs(s, settings)
    except TrainyardError:
        return  # the line on the database says why
    finally:
        db.dispose()


def _judge_workers(s: Session) -> Iterator[Finding]:
    at, present = now(s), list_present(s)
    waiting, since = s.execute(
        select(func.count(), func.min(col(Run.queued_at))).where(
            col(Run.state) == QUEUED,
            col(Run.not_before) <= at,
            col(Run.phase) == "",  # others say what they wait for
        )
    ).one()
    free = sum(worker.slots - len(worker.running) for worker in present)
    if not present:
        remedy = "start one: trainyard up, or trainyard worker"
        if waiting:
            yield problem("workers", f"none, and {waiting} runs wait", remedy)
        else:
            yield ok("workers", "none is here; that is well while nothing is started")
        return
    for worker in present:
        if worker.note:
            yield warning("workers", f"{worker.name} takes no run: {worker.note}", "free some space there")
    if waiting and free > 0 and at - since > LONG_WAIT_S:
        remedy = "see the worker's log, and the line on the broker"
        yield problem(
            "workers", f"a run has waited for {at - since:,.0f} s while {free} slots are free", remedy
        )
    else:
        oldest = max(at - worker.seen_at for worker in present)
        slots = sum(worker.slots for worker in present)
        yield ok("workers", f"{len(present)} with {slots} slots, {free} free, heard of {oldest:,.0f} s ago")


def _judge_runs(s: Session, settings: Settings) -> Iterator[Finding]:
    at = now(s)
    late = col(Run.lease_until) < at - max(30.0, settings.lease_s)
    stuck = s.exec(select(Run.id).where(col(Run.state) == RUNNING, late).limit(5)).all()
    if stuck:
        remedy = "nothing takes them back while no web process and no worker runs; start them, and they go on"
        yield warning("runs", f"marked as running, but no worker has them: {', '.join(stuck)}", remedy)
        return
    rows = s.execute(select(Run.state, func.count()).group_by(col(Run.state))).all()
    yield ok("runs", ", ".join(f"{count} {state}" for state, count in sorted(map(tuple, rows))) or "none yet")
