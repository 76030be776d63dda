"""The run state machine: the only code that changes a run's state.

    queued -> running -> finished | failed | canceled | paused
    running -> queued             when the lease expires or the worker lets go
    queued -> canceled            by a person
    paused | failed | canceled -> queued   by resume, as a new attempt

`finished` is terminal. Every change is a compare-and-set and a row in the event table, made in one place
(`transition`). The session comes first; nothing here commits. Times come from `db.now`. What a person asks of a running
run is a flag in its row; every transition clears the flags, and one out of `running` does what they ask.
"""

from app.runs.abandoned import (
    REAPER,
    extend_leases,
    has_expired,
    has_unpublished,
    mark_published,
    mark_unpublished,
    reap_expired,
    redate,
    take_unpublished,
)
from app.runs.attempts import (
    Flags,
    claim_run,
    renew_lease,
    report,
    rewind,
    say_waiting,
)
from app.runs.creation import NewRun, create_run, default_name, new_id
from app.runs.endings import end_run, give_back, release_run
from app.runs.external import append_external, finish_external
from app.runs.reading import count_queued, get_run, list_events
from app.runs.requests import delete_run, edit_run, request_cancel, request_pause, resume_run

__all__ = [
    "REAPER",
    "Flags",
    "NewRun",
    "append_external",
    "claim_run",
    "count_queued",
    "create_run",
    "default_name",
    "delete_run",
    "edit_run",
    "end_run",
    "extend_leases",
    "finish_external",
    "get_run",
    "give_back",
    "has_expired",
    "has_unpublished",
    "list_events",
    "mark_published",
    "mark_unpublished",
    "new_id",
    "reap_expired",
    "redate",
    "release_run",
    "renew_lease",
    "report",
    "request_cancel",
    "request_pause",
    "resume_run",
    "rewind",
    "say_waiting",
    "take_unpublished",
]
