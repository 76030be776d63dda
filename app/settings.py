"""Settings of the web process and the worker, from `TRAINYARD_*` environment variables."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Every knob, with the value that the embedded mode uses."""

    model_config = SettingsConfigDict(env_prefix="TRAINYARD_", extra="ignore")

    data_dir: Path = Field(Path("~/.trainyard"), description="Database, Redis socket, logs and checkpoints.")
    datasets: Path | None = Field(None, description="Where data sets lie; default DATA_DIR/datasets.")
    database_url: str = Field("", repr=False, description="Default: SQLite in DATA_DIR.")
    broker_url: str = Field("", repr=False, description="Default: Redis on a unix socket in DATA_DIR.")
    token: str = Field(
        "",
        repr=False,
        description="A token for everything, beside those in the database: requests must carry one or the other.",
    )
    host: str = Field("127.0.0.1", description="Address that the web process binds.")
    port: int = Field(8000, ge=0, le=65_535, description="Port that the web process binds.")
    allowed_hosts: str = Field(
        "", description="Further Host names to answer to, comma separated (name or name:port)."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks of reverse proxies, comma separated: their X-Forwarded-For and "
        "X-Forwarded-Proto are believed.",
    )
    lease_s: float = Field(
        20.0, ge=3, description="A run whose worker is silent for this long is given to another."
    )
    flush_s: float = Field(0.25, gt=0, le=5, description="How often a trainer writes its points.")
    checkpoint_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="How often a trainer writes a checkpoint at most; seldomer within an epoch than at its end.",
    )
    stall_s: float = Field(
        1_800.0, ge=1, description="A trainer that gets nothing done for this long is ended; its run goes on."
    )
    max_failures: int = Field(
        3, ge=1, le=100, description="A run that fails this often for no reason of its own ends."
    )
    max_queued: int = Field(1_000, ge=1, description="Runs that may wait at once.")
    min_free_mb: int = Field(
        500,
        ge=0,
        description="Disk space to keep free: with less no run is started and no checkpoint written; 0: any.",
    )
    root_path: str = Field("", description="Path prefix behind a reverse proxy.")
    log_format: Literal["text", "json"] = Field("text", description="Log lines for people, or JSON lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged: this and what is more important."
    )

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        self.data_dir = self.data_dir.expanduser().resolve()
        self.datasets = (self.datasets or self.data_dir / "datasets").expanduser().resolve()
        self.database_url = database_url(self.database_url or f"sqlite:///{self.data_dir / 'trainyard.db'}")
        self.broker_url = self.broker_url or f"redis+socket://{quote(str(self.data_dir / 'redis.sock'))}"
        return self

    @property
    def datasets_dir(self) -> Path:
        assert self.datasets is not None
        return self.datasets

    @property
    def runs_dir(self) -> Path:
        """Logs and checkpoints, one folder a run."""
        return self.data_dir / "runs"

    @property
    def images_dir(self) -> Path:
        """Validation images for the pages, one file a data set; trainers write them."""
        return self.data_dir / "images"


def database_url(url: str) -> str:
    """The URL with the driver that we install: `postgres://` becomes `postgresql+psycopg://`."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


def make_data_dir(settings: Settings) -> None:
    """Create the data directory for its owner alone (mode 0700), and the SQLite file in it (0600).

    SQLite gives its journals the mode of the database, so it must be right before the first of them is written.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    os.chmod(settings.data_dir, 0o700)
    if settings.database_url.startswith(f"sqlite:///{settings.data_dir}/"):
        path = settings.database_url.removeprefix("sqlite:///")
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        os.chmod(path, 0o600)


@lru_cache
def get_settings() -> Settings:
    """What the environment says. Raises: SystemExit, with the variables that are wrong and why."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"TRAINYARD_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors())
        raise SystemExit("trainyard: " + "; ".join(wrong)) from None
