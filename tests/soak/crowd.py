"""The people of a soak, in a thread: they submit over HTTP, pause, resume, cancel and delete, and try again when they
get no answer. A request in doubt is sent again with its Idempotency-Key."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.models import CANCELED, PAUSED, QUEUED, RUNNING

Json = dict[str, Any]
ACT_S = (2.0, 8.0)  # from one wish to the next
REFUSED = (409, 429, 503)  # the run is in another state by now; the database is away


@dataclass
class Ticket:
    """A run that somebody wants."""

    key: str
    spec: Json
    run_id: str | None = None
    resume_at: float | None = None  # it was paused or canceled, and somebody will want it back
    checked: bool = False  # it has ended, and everything was found as it should be
    deleted: bool = False


@dataclass
class Crowd:
    """Keeps so many runs `under_way` until `leave()`; then only what is paused is resumed."""

    url: str
    specs: Sequence[Json]
    seed: int
    under_way: int
    tickets: list[Ticket] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._http = httpx.Client(base_url=self.url, trust_env=False, timeout=20)
        self._leaving, self._stop = threading.Event(), threading.Event()
        self._act_at = 0.0
        self._thread = threading.Thread(target=self._live, name="crowd", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Submit nothing more, and wish nothing but that paused runs go on."""
        self._leaving.set()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._http.close()

    def _live(self) -> None:
        while not self._stop.wait(0.2):
            try:
                self._tick()
            except httpx.TransportError:
                continue  # the web process is away

    def _tick(self) -> None:
        for ticket in self.tickets:
            if ticket.run_id is None:
                self._submit(ticket)
            elif ticket.resume_at is not None and time.monotonic() > ticket.resume_at:
                self._resume(ticket)
        if self._leaving.is_set():
            return
        live = self._list(QUEUED, RUNNING, PAUSED)
        if live is None:
            return
        for _ in range(self.under_way - len(live)):
            spec = self._chance.choice(self.specs)
            self.tickets.append(Ticket(f"soak-{self.seed}-{len(self.tickets)}", spec))
        if time.monotonic() > self._act_at:
            self._act_at = time.monotonic() + self._chance.uniform(*ACT_S)
            self._wish(live)

    def _submit(self, ticket: Ticket) -> None:
        body = {"spec": ticket.spec, "experiment": "soak"}
        answer = self._send("POST", "/api/v1/runs", json=body, headers={"Idempotency-Key": ticket.key})
        if answer is not None:
            ticket.run_id = answer["id"]

    def _resume(self, ticket: Ticket) -> None:
        """Until it is going, or has ended otherwise."""
        run = self._send("GET", f"/api/v1/runs/{ticket.run_id}")
        if run is None:
            return
        if run["state"] in (PAUSED, CANCELED):
            if self._send("POST", f"/api/v1/runs/{ticket.run_id}/resume") is not None:
                ticket.resume_at = None
        elif not (run["pause_requested"] or run["cancel_requested"]):
            ticket.resume_at = None  # it ended before it could stop

    def _wish(self, live: list[Json]) -> None:
        """Something that a person does."""
        wish = self._chance.choice(["pause", "pause", "cancel", "cancel and resume", "delete"])
        if wish == "delete":
            return self._delete()
        wanted = [
            run for run in live if run["state"] == RUNNING or (wish != "pause" and run["state"] == QUEUED)
        ]
        ticket = self._ticket(self._chance.choice(wanted)["id"]) if wanted else None
        if ticket is None or ticket.resume_at is not None:
            return None
        if wish != "cancel":  # before it is asked for: who checks ended runs must leave this one alone
            ticket.resume_at = time.monotonic() + self._chance.uniform(1, 6)
        self._count(wish)
        self._send("POST", f"/api/v1/runs/{ticket.run_id}/{wish.split()[0]}")
        return None

    def _delete(self) -> None:
        done = [ticket for ticket in self.tickets if ticket.checked and not ticket.deleted]
        if done:
            ticket = self._chance.choice(done)
            if self._send("DELETE", f"/api/v1/runs/{ticket.run_id}") is not None:
                ticket.deleted = True
                self._count("delete")

    def _count(self, wish: str) -> None:
        self.asked[wish] = self.asked.get(wish, 0) + 1

    def _ticket(self, run_id: str) -> Ticket | None:
        return next((ticket for ticket in self.tickets if ticket.run_id == run_id), None)

    def _list(self, *states: str) -> list[Json] | None:
        found = self._send("GET", "/api/v1/runs", params={"state": list(states), "limit": 1000})
        return None if found is None else list(found["runs"])

    def _send(self, method: str, path: str, **more: Any) -> Json | None:
        """The answer, None when it was refused for a good reason. Anything else is a complaint."""
        response = self._http.request(method, path, **more)
        if response.is_success:
            body: Json = response.json() if response.content else {}
            return body
        if response.status_code not in REFUSED:
            self.complaints.append(f"{method} {path}: {response.status_code} {response.text[:500]}")
        return None
