"""One stream of server-sent events for all runs of a page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse

from app.api.deps import LiveHub
from app.live import read_cursors

router = APIRouter(prefix="/api/v1", tags=["series"])


@router.get(
    "/events",
    summary="What happens, live",
    response_model=None,
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def get_events(
    request: Request,
    hub: LiveHub,
    run: Annotated[list[str], Query(max_length=200)] = [],  # noqa: B006
    after: Annotated[
        str, Query(max_length=20_000, description="Cursors to start behind: `run:cursor,run:cursor`.")
    ] = "",
    last_event_id: Annotated[str | None, Header(max_length=20_000)] = None,
) -> EventSourceResponse:
    """Events `run` (a run as it is now), `points` (`{"series": [{run, metric, step, time, value, cursor}]}`), `resync`
    (too far behind: read the series again) and `gone` (deleted).

    Without a cursor the stream begins with the runs' first points. `Last-Event-ID` goes on behind that event, without
    a gap or a duplicate. Without `run`, the states of all runs, and no points.
    """
    cursors = read_cursors(last_event_id or after)
    client = request.client.host if request.client else ""
    hub.check_room(client)
    return EventSourceResponse(
        hub.stream(run, cursors, client), headers={"cache-control": "no-store", "x-accel-buffering": "no"}
    )
