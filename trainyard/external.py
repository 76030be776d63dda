"""A run that an outside script drives: its points are sent in the background, none lost."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from trainyard.errors import TrainyardError
from trainyard.http import Http, keep_trying
from trainyard.records import Run, plain

FLUSH_S = 0.5
MAX_ROWS = 20_000  # rows held while the server is away; then `log` waits
BATCH_ROWS = 5_000
BATCH_VALUES = 100_000  # some 3 MB of JSON; the server takes 16
PATIENCE_S = 600.0  # how long the server may be away before rows are given up


class Row(NamedTuple):
    """The values that one call of `log` gave."""

    step: int
    time: float
    values: dict[str, float]


class ExternalRun:
    """Send metrics of a training of your own; a thread flushes them twice a second.

        with client.external("my run", {"lr": 0.1}) as run:
            run.log({"train/loss": 0.3}, step=1)

    Leaving the block sends what is left and ends the run: `finished`, or `failed` with the exception. While
    the server is away rows are kept and sent again under the same batch id, which the server counts once.
    """

    def __init__(
        self, http: Http, run: Run, *, max_rows: int = MAX_ROWS, patience_s: float = PATIENCE_S
    ) -> None:
        self._http = http
        self._path = f"/api/v1/runs/{quote(run.id, safe='')}"
        self._max_rows = max_rows
        self._patience_s = patience_s
        self._rows: list[Row] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._error: TrainyardError | None = None
        self._next_step = 1
        self._finished = False
        self.run = run
        self.id = run.id
        self.url = f"{http.url}{run.url}"
        self._sender = threading.Thread(target=self._send_rows, name=f"trainyard-{run.id}", daemon=True)
        self._sender.start()

    def log(
        self, values: Mapping[str, float], step: int | None = None, *, time_s: float | None = None
    ) -> None:
        """Keep these values of `step` for sending; waits while the buffer is full.

        `step` counts on from the last one where it is left out; `time_s` is Unix time, by default now.

        Raises: TrainyardError when the server has refused earlier rows, as after a cancel in the browser.
        """
        if not values:
            raise ValueError("log needs at least one metric")
        row = {name: float(value) for name, value in values.items()}
        with self._changed:
            self._changed.wait_for(lambda: len(self._rows) < self._max_rows or self._stopped)
            if self._error is not None:
                raise self._error
            if self._finished:
                raise TrainyardError("conflict", "the run is ended; it takes no more metrics", None, 409)
            step = self._next_step if step is None else int(step)
            self._next_step = step + 1
            self._rows.append(Row(step, time.time() if time_s is None else time_s, row))

    def finish(self, state: str = "finished", error: str | None = None) -> Run:
        """Send what is left and end the run. Ending twice is no error.

        Raises: TrainyardError when rows could not be sent or the run has been ended by somebody else.
        """
        if not self._finished:
            self._finished = True
            self._closing.set()
            self._sender.join()
            if self._error is not None:
                raise self._error
            body = {"state": state} | ({"error": error[-4000:]} if error else {})
            self.run = keep_trying(partial(self._end, body), self._patience_s)
        return self.run

    def _end(self, body: Mapping[str, Any]) -> Run:
        try:
            return Run.model_validate(self._http.call("POST", f"{self._path}/finish", body=body))
        except TrainyardError as error:
            run = Run.model_validate(self._http.call("GET", self._path)) if error.status == 409 else None
            if run is None or run.state != body["state"]:
                raise
            return run  # an earlier try had arrived, only its answer was lost

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            if isinstance(error, KeyboardInterrupt):
                self.finish("canceled", "interrupted")
            else:
                self.finish("failed", f"{type(error).__name__}: {error}")
        except TrainyardError as refused:
            error.add_note(f"the run could not be ended on the server: {refused}")

    @property
    def _stopped(self) -> bool:
        return self._error is not None or self._finished

    def _send_rows(self) -> None:
        """Until closed and empty: take a batch from the front, send it, and only then let go of it."""
        while True:
            closing = self._closing.wait(FLUSH_S)
            with self._changed:
                rows = self._front()
            while rows:
                try:
                    self._send(rows)
                except TrainyardError as error:
                    with self._changed:
                        self._error = error
                        self._changed.notify_all()
                    return
                with self._changed:
                    del self._rows[: len(rows)]
                    self._changed.notify_all()
                    rows = self._front()
            if closing:
                return

    def _front(self) -> list[Row]:
        """The oldest rows, as many as one request carries; the caller holds the lock."""
        totals = accumulate(len(row.values) for row in self._rows[:BATCH_ROWS])
        count = sum(total <= BATCH_VALUES for total in totals)
        return self._rows[: max(1, count)]

    def _send(self, rows: Sequence[Row]) -> None:
        for body in batches(rows):
            # One id a batch, made before the first try: what arrived twice counts once.
            post = partial(self._http.call, "POST", f"{self._path}/metrics", body=body, retry_s=0)
            keep_trying(post, self._patience_s)


def batches(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Columnar bodies, one for each set of metrics that were logged together."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(sorted(row.values)), []).append(row)
    return [
        {
            "batch": uuid.uuid4().hex,
            "step": [row.step for row in group],
            "time": [row.time for row in group],
            "values": {name: [plain(row.values[name]) for row in group] for name in names},
        }
        for names, group in groups.items()
    ]
