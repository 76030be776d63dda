"""Tables. Times are Unix seconds, UTC; never a form, never sent out as they are."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, Index, LargeBinary, MetaData, Text, text
from sqlmodel import Field, SQLModel

metadata: MetaData = SQLModel.metadata
metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

QUEUED, RUNNING, PAUSED = "queued", "running", "paused"
FINISHED, FAILED, CANCELED = "finished", "failed", "canceled"
STATES = (QUEUED, RUNNING, PAUSED, FINISHED, FAILED, CANCELED)
ENDED = (FINISHED, FAILED, CANCELED)
DRAIN_FINISH, DRAIN_NOW = "finish", "now"
DRAINS = ("", DRAIN_FINISH, DRAIN_NOW)


class Run(SQLModel, table=True):
    """One training, from spec to final weights. Only `app.runs` changes `state`."""

    __tablename__ = "run"
    __table_args__ = (
        CheckConstraint(f"state IN {STATES}", name="state"),
        Index("ix_run_state_queued_at", "state", "queued_at"),
        Index("ix_run_experiment_id", "experiment", "id"),
        # The few runs with flushes that were not compacted yet: what the compactor looks for each second.
        Index(
            "ix_run_uncompacted",
            "seq",
            sqlite_where=text("seq > compacted_seq"),
            postgresql_where=text("seq > compacted_seq"),
        ),
    )

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=200)
    kind: str = Field(default="training", max_length=16)  # or "external": an outside script drives it
    experiment: str | None = Field(default=None, max_length=200)
    tags: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    notes: str = Field(default="", sa_column=Column(Text, nullable=False))
    style: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # see app.palette
    spec: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    resolved: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    model: str | None = Field(default=None, max_length=64, index=True)
    dataset: str | None = Field(default=None, max_length=64, index=True)

    state: str = Field(default=QUEUED, max_length=16)
    attempt: int = 0  # the fencing token: a write that names an older one is refused
    failures: int = 0
    cancel_requested: bool = False
    pause_requested: bool = False
    worker: str | None = Field(default=None, max_length=200)
    phase: str = Field(default="", max_length=200)
    lease_until: float | None = Field(default=None, index=True)
    not_before: float = 0.0  # back-off after a failure
    error: str | None = Field(default=None, sa_column=Column(Text))
    error_tail: str | None = Field(default=None, sa_column=Column(Text))  # the log's last lines
    checkpoint: dict[str, Any] | None = Field(
        default=None, sa_column=Column(JSON)
    )  # path, sha256, step, epoch

    created_at: float
    queued_at: float
    published_at: float | None = None
    started_at: float | None = None  # of the first attempt: `elapsed` counts from here
    ended_at: float | None = None
    updated_at: float = Field(index=True)
    revision: int = 0  # grows with every change of the row: what the hub compares

    seq: int = 0  # the last flush; the live cursor
    compacted_seq: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # see app.compaction
    step: int = Field(default=0, sa_type=BigInteger)  # an outside script's may be large
    total_steps: int = 0
    epoch: int = 0
    steps_per_epoch: int = 0
    step_rate: float | None = None  # steps per second, lately

    idempotency_key: str | None = Field(default=None, max_length=200, unique=True)
    request_digest: str | None = Field(default=None, max_length=64)


class RunEvent(SQLModel, table=True):
    """Append-only: every change of a run's state, with who and why."""

    __tablename__ = "run_event"
    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(foreign_key="run.id", ondelete="CASCADE", index=True, max_length=32)
    at: float
    from_state: str | None = Field(default=None, max_length=16)
    to_state: str = Field(max_length=16)
    actor: str = Field(max_length=200)
    reason: str = Field(sa_column=Column(Text, nullable=False))
    attempt: int = 0


class MetricChunk(SQLModel, table=True):
    """Consecutive points of one series, packed little-endian: one flush, or several that were compacted.

    `steps` is int64 and empty when the steps are first_step, first_step + 1, and so on: the ordinary case. `times` is
    float64. `vals` is float32 where every value is one exactly, as losses are, otherwise float64; its length tells.
    `marks` of a compacted chunk tells which flush each point came with (see app.chunks); `seq` is then the last one.
    """

    __tablename__ = "metric_chunk"
    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE", max_length=32)
    metric: str = Field(primary_key=True, max_length=200)
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    first_step: int = Field(sa_type=BigInteger)
    last_step: int = Field(sa_type=BigInteger)
    count: int
    min: float | None = None  # over finite values, as the next four
    max: float | None = None
    sum: float | None = None
    min_step: int | None = Field(default=None, sa_type=BigInteger)
    max_step: int | None = Field(default=None, sa_type=BigInteger)
    first: float | None = None  # the value at first_step
    last: float | None = None
    nonfinite: int | None = None  # None: written before this was counted, and first to max_step are not known
    steps: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    times: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    vals: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    marks: bytes | None = Field(default=None, sa_column=Column(LargeBinary))


class MetricSummary(SQLModel, table=True):
    """What a table needs of a series, kept in the transaction that appends its chunk."""

    __tablename__ = "metric_summary"
    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE", max_length=32)
    metric: str = Field(primary_key=True, max_length=200)
    count: int
    nonfinite: int
    last: float | None = None  # None: the last value was not finite
    last_step: int = Field(sa_type=BigInteger)
    min: float | None = None
    min_step: int | None = Field(default=None, sa_type=BigInteger)
    max: float | None = None
    max_step: int | None = Field(default=None, sa_type=BigInteger)


class MetricBatch(SQLModel, table=True):
    """Ids of the batches that outside scripts sent: a repeated one changes nothing."""

    __tablename__ = "metric_batch"
    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE", max_length=32)
    batch: str = Field(primary_key=True, max_length=200)
    at: float


class Artifact(SQLModel, table=True):
    """A small file that a run produced while it trained, kept in the database: written in the flush's transaction.

    Checkpoints are files of the run's folder; the run's row points to them.
    """

    __tablename__ = "artifact"
    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE", max_length=32)
    name: str = Field(primary_key=True, max_length=200)
    kind: str = Field(max_length=32)
    step: int = Field(sa_type=BigInteger)
    epoch: int
    media_type: str = Field(max_length=100)
    size_bytes: int
    sha256: str = Field(max_length=64)
    created_at: float
    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Worker(SQLModel, table=True):
    """A worker process, as it last described itself; `drain` is what people want of it (app.workers)."""

    __tablename__ = "worker"
    __table_args__ = (CheckConstraint(f"drain IN {DRAINS}", name="drain"),)
    name: str = Field(primary_key=True, max_length=200)
    host: str = Field(max_length=200)
    pid: int
    slots: int
    gpus: int = Field(default=0, sa_column_kwargs={"server_default": "0"})  # the most that one run can have
    devices: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    running: list[str] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False)
    )  # the run of each busy slot: one that has several stands here as often
    # The digest of each registered data set that it has, by name.
    datasets: dict[str, str] = Field(
        default_factory=dict, sa_column=Column(JSON, nullable=False, server_default="{}")
    )
    # Why it takes no run at the moment; empty when it does.
    note: str = Field(default="", max_length=500, sa_column_kwargs={"server_default": ""})
    drain: str = Field(default="", max_length=16, sa_column_kwargs={"server_default": ""})
    drain_by: str = Field(default="", max_length=200, sa_column_kwargs={"server_default": ""})
    # What a slot has: see app.estimate.Slot.
    capacity: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column(JSON, nullable=False, server_default="{}")
    )
    started_at: float
    seen_at: float


class Anatomy(SQLModel, table=True):
    """A question about a network that some worker answers, and the answer: see app.anatomies."""

    __tablename__ = "anatomy"
    key: str = Field(primary_key=True, max_length=64)
    question: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    answer: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    asked_at: float = Field(index=True)
    taken_at: float | None = None


class Token(SQLModel, table=True):
    """A named right to ask: a token that scripts send, or a password that a person signs in with.

    Rows are kept after they are revoked: they tell who could do what, and that signing in is wanted here at all.
    """

    __tablename__ = "token"
    __table_args__ = (
        Index(
            "ix_token_current",
            "name",
            "kind",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )
    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=64)
    kind: str = Field(max_length=16)  # "token" or "password"
    scope: str = Field(max_length=16)  # see app.scopes
    digest: str = Field(max_length=200)  # sha256 of a token; scrypt of a password, with its salt and cost
    prefix: str = Field(
        default="", max_length=16
    )  # a token's first letters, by which people tell it from others
    created_at: float
    created_by: str = Field(max_length=200)
    last_used_at: float | None = None
    expires_at: float | None = None
    revoked_at: float | None = None


class Secret(SQLModel, table=True):
    """What this installation alone knows, such as the key that signs sessions; shared by all of its web processes."""

    __tablename__ = "secret"
    name: str = Field(primary_key=True, max_length=64)
    value: str = Field(max_length=200)
    created_at: float
