"""The Python client: submit runs, follow them, send metrics of your own training.

with Client() as client:
    run = client.submit(model="lenet", dataset="digits", epochs=3)
    print(client.wait(run.id).state)
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx

from ml.spec import RunSpec
from trainyard.errors import NotReachable, TrainyardError
from trainyard.external import ExternalRun
from trainyard.http import BUSY, Http, Params, back_off
from trainyard.records import Event, Run, Series
from trainyard.sse import Message, read_messages

SILENCE_S = 45.0  # the server sends a ping at least every 15 s


class Client:
    """A connection to one Trainyard server. Safe to share between threads.

    `url` defaults to TRAINYARD_URL or http://127.0.0.1:8000, `token` to TRAINYARD_TOKEN. A request that finds
    nobody is tried again for `retry_s`.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, retry_s: float = 10.0) -> None:
        self._http = Http(url, token, retry_s)

    @property
    def url(self) -> str:
        return self._http.url

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ---------------------------------------------------------------------------------------------

    def catalog(self) -> dict[str, Any]:
        """Models, datasets with whether each is available there, and the JSON schema of a spec."""
        answer: dict[str, Any] = self._http.call("GET", "/api/v1/catalog")
        return answer

    def recipe(self, model: str, dataset: str) -> dict[str, Any]:
        """Spec fields that learn well with this model on this data set, to start from.

        Raises: TrainyardError with status 404 where the server does not know one of them.
        """
        known = {found["name"]: found["recipes"] for found in self.catalog()["models"]}
        for what, name, names in (("model", model, known), ("dataset", dataset, known.get(model, {}))):
            if name not in names:
                there = ", ".join(names)
                raise TrainyardError("not_found", f"there is no {name!r}; there are {there}", what, 404)
        fields: dict[str, Any] = known[model][dataset]["fields"]
        return fields

    def runs(self, *, limit: int | None = None, **filters: str | Sequence[str] | None) -> Iterator[Run]:
        """Runs, the newest first, page by page as they are asked for; at most `limit`.

        `filters`: experiment, state, model, dataset, tag, text, sort, and `q`, a query such as `lr > 0.01 AND
        val/accuracy >= 98%`. Several values of one: a list.
        """
        fixed = _pairs(filters)
        cursor: str | None = None
        given = 0
        while True:
            page_size = 100 if limit is None else min(100, limit - given)
            if page_size <= 0:
                return
            more: Params = [("cursor", cursor)] if cursor is not None else []
            answer = self._http.call("GET", "/api/v1/runs", params=[*fixed, ("limit", page_size), *more])
            for run in answer["runs"]:
                yield Run.model_validate(run)
                given += 1
            cursor = answer["next_cursor"]
            if cursor is None:
                return

    def get(self, run_id: str) -> Run:
        """The run as it is now. Raises: TrainyardError with status 404."""
        return Run.model_validate(self._http.call("GET", _path(run_id)))

    def series(
        self,
        runs: str | Iterable[str],
        metrics: str | Iterable[str],
        *,
        x: str = "step",
        points: int = 1000,
    ) -> list[Series]:
        """Each metric of each run in at most about `points` real points, extremes kept; `x` as in the API."""
        params = [*_many("run", runs), *_many("metric", metrics), ("x", x), ("points", points)]
        answer = self._http.call("GET", "/api/v1/series", params=params)
        return [Series.model_validate(series) for series in answer["series"]]

    def compare(
        self,
        runs: Iterable[str],
        *,
        metric: str | None = None,
        at: str = "last",
        group: Iterable[str] = (),
        baseline: str | None = None,
    ) -> dict[str, Any]:
        """What differs, whether it is fair and what the seeds show: the answer of `GET /api/v1/compare`.

        `at`: the metric's "last" or "best" value. `group`: what is compared, by default the model. `baseline`: a
        run that the others are compared with, instead of each with each.

        Raises: TrainyardError, 404 for an unknown run.
        """
        params = [*_many("run", runs), *_many("group", group), ("at", at)]
        params += [
            (name, value) for name, value in (("metric", metric), ("baseline", baseline)) if value is not None
        ]
        found: dict[str, Any] = self._http.call("GET", "/api/v1/compare", params=params)
        return found

    def compare_url(self, runs: Iterable[str]) -> str:
        """Where a browser shows these runs side by side."""
        return f"{self.url}/compare?{urlencode([('run', run) for run in runs])}"

    def preflight(self, spec: RunSpec | Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """What such a run would need, and whether it can run there: the answer of `POST /api/v1/preflight`.

        `fits` is False where it cannot, and `problem` says why. Nothing is queued.

        Raises: TrainyardError, 422 with `field` when the spec is wrong, 503 when no worker can look at its network.
        """
        body = {"spec": _spec(spec, fields)}
        found: dict[str, Any] = self._http.call("POST", "/api/v1/preflight", body=body, repeatable=True)
        return found

    # -- changing --------------------------------------------------------------------------------------------

    def submit(
        self,
        spec: RunSpec | Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        experiment: str | None = None,
        tags: Sequence[str] = (),
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Run:
        """The new, queued run. `fields` are the spec's own words and go before those of `spec`.

        A key is made for each call, so that a try after a lost connection gives the same run and not a second
        one.

        Raises: TrainyardError, with `field` when the spec is wrong (status 422).
        """
        body = {"spec": _spec(spec, fields), **_described(name, experiment, tags)}
        return self._create("/api/v1/runs", body, idempotency_key)

    def cancel(self, run_id: str) -> Run:
        """Ask it to stop for good; at once when it only waits.

        Raises: TrainyardError, 409 when it has ended.
        """
        return self._act(run_id, "cancel", repeatable=True)

    def pause(self, run_id: str) -> Run:
        """Ask it to write a checkpoint and stop. Raises: TrainyardError, 409 when it does not run."""
        return self._act(run_id, "pause", repeatable=True)

    def resume(self, run_id: str) -> Run:
        """Queue it again from its last checkpoint.

        Raises: TrainyardError, 409 unless paused, failed, canceled.
        """
        return self._act(run_id, "resume", repeatable=False)

    def clone(self, run_id: str) -> Run:
        """A new run with the same spec."""
        return self._act(run_id, "clone", repeatable=False)

    def workers(self) -> list[dict[str, Any]]:
        """Who is there to train, as the API tells it."""
        found: list[dict[str, Any]] = self._http.call("GET", "/api/v1/workers")["workers"]
        return found

    def drain(self, worker: str, *, now: bool = False) -> dict[str, Any]:
        """Ask a worker to take no more runs and to end: once its runs are over, or `now`, and they go on elsewhere.

        Raises: TrainyardError, 404 when it is not there.
        """
        path = f"/api/v1/workers/{quote(worker, safe='')}/drain"
        asked: dict[str, Any] = self._http.call("POST", path, body={"now": now}, repeatable=True)
        return asked

    def external(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        *,
        experiment: str | None = None,
        tags: Sequence[str] = (),
    ) -> ExternalRun:
        """A run that this script drives: use it in a `with` block and `log` to it."""
        body = {"external": True, "params": dict(params or {}), **_described(name, experiment, tags)}
        return ExternalRun(self._http, self._create("/api/v1/runs", body, None))

    def _create(self, path: str, body: Mapping[str, Any], key: str | None) -> Run:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        created = self._http.call("POST", path, body=body, headers=headers)
        return Run.model_validate(created)

    def _act(self, run_id: str, action: str, *, repeatable: bool) -> Run:
        return Run.model_validate(self._http.call("POST", f"{_path(run_id)}/{action}", repeatable=repeatable))

    # -- following -------------------------------------------------------------------------------------------

    def events(
        self,
        runs: str | Iterable[str],
        *,
        timeout: float | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Event]:
        """What happens to these runs, live and without end: stop iterating when you have seen enough.

        `stop`, set by another thread, ends it at the next event or when the stream breaks.

        A lost stream is taken up where it ended: no point is missing and none comes twice.

        Raises: TrainyardError when the server refuses; TimeoutError after `timeout` seconds.
        """
        params = _many("run", runs)
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        last_id = ""
        pauses = back_off()
        stop = stop or threading.Event()
        while not stop.is_set():
            try:
                for message in self._messages(params, last_id, deadline):
                    pauses = back_off()
                    last_id = message.id
                    event = _event(message)
                    if event is not None:
                        yield event
                    if stop.is_set():
                        return
            except TrainyardError as error:
                if error.status not in BUSY:
                    raise
            except httpx.TransportError as error:
                if not last_id and isinstance(error, httpx.ConnectError):
                    raise NotReachable(self.url, str(error)) from error
            _check(deadline)
            stop.wait(min(next(pauses), max(0.0, deadline - time.monotonic())))

    def _messages(self, params: Params, last_id: str, deadline: float) -> Iterator[Message]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        # A read started before a ping may end long after the deadline; a quarter of what is left keeps that
        # small.
        read_s = min(SILENCE_S, max(0.2, (deadline - time.monotonic()) / 4))
        with self._http.stream("/api/v1/events", params=params, headers=headers, read_s=read_s) as chunks:
            for message in read_messages(_until(deadline, chunks)):
                # The id of the stream lives on in a message that carries none of its own.
                yield message._replace(id=message.id or last_id)

    def wait(self, run_id: str, timeout: float | None = None) -> Run:
        """The run once it is finished, failed, canceled or paused, told by the stream.

        Raises: TimeoutError.
        """
        for event in self.events(run_id, timeout=timeout):
            if event.kind == "gone":
                raise TrainyardError("not_found", f"run {run_id} was deleted", None, 404)
            if event.run is not None and (event.run.ended or event.run.state == "paused"):
                return event.run
        raise AssertionError("the stream has no end")


def _until(deadline: float, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        _check(deadline)
        yield chunk


def _check(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise TimeoutError("the runs had not ended when the time was up")


def _event(message: Message) -> Event | None:
    """None for a kind of message that this client does not know."""
    data = json.loads(message.data)
    if message.event == "run":
        return Event(kind="run", id=message.id, run_id=data["id"], run=Run.model_validate(data))
    if message.event == "points":
        return Event(kind="points", id=message.id, series=[Series.model_validate(s) for s in data["series"]])
    if message.event == "resync":
        return Event(kind="resync", id=message.id, run_id=data["run"])
    if message.event == "gone":
        return Event(kind="gone", id=message.id, run_id=data["run"])
    return None


def _path(run_id: str) -> str:
    return f"/api/v1/runs/{quote(run_id, safe='')}"


def _spec(spec: RunSpec | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    known = spec.model_dump(mode="json") if isinstance(spec, RunSpec) else dict(spec or {})
    return {**known, **fields}


def _described(name: str | None, experiment: str | None, tags: Sequence[str]) -> dict[str, Any]:
    given = {"name": name, "experiment": experiment, "tags": list(tags) or None}
    return {key: value for key, value in given.items() if value is not None}


def _many(name: str, values: str | Iterable[str]) -> list[tuple[str, str | int | float]]:
    return [(name, value) for value in ([values] if isinstance(values, str) else values)]


def _pairs(filters: Mapping[str, str | Sequence[str] | None]) -> list[tuple[str, str | int | float]]:
    return [pair for name, values in filters.items() if values is not None for pair in _many(name, values)]
