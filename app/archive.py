"""What a backup is: a tar file with the database, the files that its rows point to, and a list of them all at the end.

The list (`MANIFEST.json`) is written last: an archive that was cut short has none and is refused.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1
MANIFEST, DATABASE = "MANIFEST.json", "trainyard.db"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_MEMBERS = 1_000_000
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
MEMBER = re.compile(rf"{re.escape(DATABASE)}|runs/[a-z0-9]{{1,32}}/{_NAME}|images/{_NAME}\.npy")


class Entry(BaseModel):
    """One file of the archive."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=300)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """All files of the archive, and what the database says."""

    model_config = ConfigDict(extra="forbid")
    format: int
    version: str
    schema_revision: str
    made_at: str
    runs: dict[str, int]  # how many, by state
    missing: list[str]  # checkpoints that rows point to and that were not on this machine
    files: list[Entry] = Field(max_length=MAX_MEMBERS)
