"""Bring a backup back: `python -m app.restore FILE DIR` (`trainyard restore` runs the same).

Nothing in the archive is believed: each member must be a plain file of a name that a backup has, fit on the disk, and
be what the list at the end says. All of it happens in a folder beside; the data directory appears whole or not at all.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import zlib
from contextlib import closing
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import delete
from sqlmodel import col, select

from app import runs
from app.archive import DATABASE, FORMAT, MANIFEST, MAX_MANIFEST_BYTES, MAX_MEMBERS, MEMBER, Entry, Manifest
from app.copies import check_integrity
from app.db import Database
from app.errors import Conflict, Invalid, TrainyardError
from app.migrate import migrate
from app.models import RUNNING, Run, Worker
from app.schema import describe_newer

PIECE_BYTES = 1024 * 1024
SPARE_BYTES = 100_000_000  # stays free on the disk
REASON = "restored from a backup; the run waits for a worker"


def main() -> int:
    parser = argparse.ArgumentParser(prog="trainyard restore", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("data_dir", type=Path)
    asked = parser.parse_args()
    os.umask(0o077)
    target = asked.data_dir.expanduser().absolute()
    try:
        manifest, waiting = restore_backup(asked.file.expanduser(), target)
    except (TrainyardError, OSError) as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return 1
    print(f"{target}: the backup of {manifest.made_at}, {sum(manifest.runs.values())} runs")
    if waiting:
        print(f"{waiting} that trained then wait and go on from their checkpoints")
    print(f"start it with: trainyard up --data-dir {target}")
    return 0


def restore_backup(archive: Path, data_dir: Path) -> tuple[Manifest, int]:
    """Make the data directory of a backup; its list, and how many runs go on.

    Raises: Conflict, when the directory is in use or not empty; Invalid, when the archive is no sound backup; OSError.
    """
    check_target(data_dir)
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{data_dir.name}.restore-", dir=data_dir.parent))
    try:
        manifest = unpack(archive, folder)
        waiting = _prepare_database(folder / DATABASE, manifest)
        if data_dir.exists():
            data_dir.rmdir()
        folder.rename(data_dir)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest, waiting


def check_target(data_dir: Path) -> None:
    """Raises: Conflict, when something is there, and says so if it runs."""
    if data_dir.is_symlink() or (data_dir.exists() and not data_dir.is_dir()):
        raise Conflict(f"{data_dir} is no directory; choose another with --data-dir")
    lock = data_dir / "up.lock"
    if lock.exists():
        with lock.open("rb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"a `trainyard up` uses {data_dir}; choose another with --data-dir") from None
    if data_dir.exists() and any(data_dir.iterdir()):
        raise Conflict(f"{data_dir} is not empty; choose another with --data-dir, or move it aside first")


def unpack(archive: Path, folder: Path) -> Manifest:
    """Write the files of a backup to an empty folder; its list. Raises: Invalid; OSError."""
    try:
        with tarfile.open(archive, "r|*") as tar:  # as a stream: nothing is looked up in it
            written, listing = _unpack_members(tar, folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Invalid(f"{archive} is no backup, or is damaged: {error}") from error
    if listing is None:
        raise Invalid(
            f"{archive} has no {MANIFEST} at its end: it is no backup of Trainyard, or was cut short"
        )
    try:
        manifest = Manifest.model_validate_json(listing)
    except ValidationError as error:
        raise Invalid(f"the {MANIFEST} in {archive} cannot be read: {error.errors()[0]['msg']}") from None
    if manifest.format != FORMAT:
        raise Invalid(
            f"{archive} has format {manifest.format} and not {FORMAT}; use the version that made it"
        )
    told = {entry.name: entry for entry in manifest.files}
    for name in sorted(told.keys() | written.keys()):
        if told.get(name) != written.get(name):
            raise Invalid(f"{archive} is damaged: {name} is not what its {MANIFEST} says")
    if DATABASE not in written:
        raise Invalid(f"{archive} holds no database")
    return manifest


def _unpack_members(tar: tarfile.TarFile, folder: Path) -> tuple[dict[str, Entry], bytes | None]:
    written: dict[str, Entry] = {}
    listing: bytes | None = None
    for member in tar:
        tarfile.data_filter(member, str(folder))  # refuses links, devices and what leads outside
        if not member.isreg() or member.issparse():
            raise Invalid(f"{member.name[:200]!r} in the archive is no plain file")
        content = tar.extractfile(member)
        if listing is not None or content is None or len(written) >= MAX_MEMBERS:
            raise Invalid(f"{member.name[:200]!r} does not belong in a backup")
        if member.name == MANIFEST:
            if member.size > MAX_MANIFEST_BYTES:
                raise Invalid(f"the {MANIFEST} in the archive is too large")
            listing = content.read()
            continue
        if not MEMBER.fullmatch(member.name) or member.name in written:
            raise Invalid(f"{member.name[:200]!r} does not belong in a backup")
        if member.size + SPARE_BYTES > (free := shutil.disk_usage(folder).free):
            raise Invalid(
                f"{member.name} has {member.size / 1e6:,.0f} MB, and the disk {free / 1e6:,.0f} MB left"
            )
        path = folder / member.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sha256, size = hashlib.sha256(), 0
        with open(path, "xb", opener=_private) as file:
            while piece := content.read(PIECE_BYTES):
                file.write(piece)
                sha256.update(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        written[member.name] = Entry(name=member.name, size=size, sha256=sha256.hexdigest())
    return written, listing


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _prepare_database(path: Path, manifest: Manifest) -> int:
    """Bring it to this version's schema, and let go of runs that trained; how many those are."""
    newer = describe_newer(manifest.schema_revision)
    if newer is not None:
        raise Invalid(newer)
    with closing(sqlite3.connect(path)) as connection:
        try:
            wrong = check_integrity(connection)
        except sqlite3.Error as error:
            wrong = str(error)
    if wrong is not None:
        raise Invalid(f"the database in the backup is damaged: {wrong}")
    migrate(f"sqlite:///{path}")
    db = Database(f"sqlite:///{path}")
    try:
        with db.begin() as s:
            s.execute(delete(Worker))
            query = select(Run.id, Run.attempt).where(col(Run.state) == RUNNING, col(Run.kind) == "training")
            held = s.exec(query).all()
            for run_id, attempt in held:
                runs.release_run(s, run_id, attempt, "restore", REASON)
    finally:
        db.dispose()
    return len(held)


if __name__ == "__main__":
    sys.exit(main())
