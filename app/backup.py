"""Back up a Trainyard that runs: `python -m app.backup FILE` (`trainyard backup` runs the same). SQLite only.

Consistent although nothing stops: checkpoints are linked aside first, then the database is copied as of one moment,
then what its rows point to beyond is linked too. So no row of the copy points to a checkpoint that the archive lacks.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from app.archive import DATABASE, FORMAT, MANIFEST, Entry, Manifest
from app.copies import copy_database
from app.db import Database
from app.errors import Conflict, Invalid, TrainyardError
from app.models import FINISHED
from app.settings import Settings, get_settings

TRIES = 5  # copies of the database, when checkpoints vanish while one is made
STAGING = ".backup-"
PIECE_BYTES = 1024 * 1024
POSTGRES = """this Trainyard keeps its data in Postgres, which has its own tool. Back up, in this order:
  1. the files of each worker: TRAINYARD_DATA_DIR/runs (checkpoints) and TRAINYARD_DATA_DIR/images
  2. the database: pg_dump --format=custom --file trainyard.dump "$TRAINYARD_DATABASE_URL"
Restore with pg_restore --clean --if-exists --dbname "$TRAINYARD_DATABASE_URL" trainyard.dump, put the files back, and
run `trainyard migrate`. A checkpoint that is missing then costs the steps behind the one before it, nothing else."""


@dataclass(frozen=True)
class Pointer:
    """A checkpoint that a row of the copied database points to."""

    run_id: str
    file: str
    wanted: bool  # the run may go on from it

    @property
    def name(self) -> str:
        return f"runs/{self.run_id}/{self.file}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="trainyard backup", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--without-finished", action="store_true")
    asked = parser.parse_args()
    os.umask(0o077)
    try:
        target = name_target(asked.file)
        manifest = make_backup(get_settings(), target, without_finished=asked.without_finished)
    except (TrainyardError, OSError) as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return 1
    runs = ", ".join(f"{count} {state}" for state, count in sorted(manifest.runs.items())) or "no runs"
    print(f"{target}: {target.stat().st_size / 1e6:,.1f} MB, {len(manifest.files)} files, {runs}")
    for name in manifest.missing:
        print(f"not on this machine, so not in the backup: {name}", file=sys.stderr)
    return 0


def name_target(asked: Path) -> Path:
    """The file to write; in a folder, one named by the time. Raises: Conflict, when it is there already."""
    asked = asked.expanduser().absolute()
    if asked.is_dir():
        asked = asked / time.strftime("trainyard-%Y%m%d-%H%M%S.tar", time.gmtime())
    if asked.exists():
        raise Conflict(f"{asked} exists; choose another name")
    if not asked.parent.is_dir():
        raise Invalid(f"there is no folder {asked.parent}")
    return asked


def make_backup(settings: Settings, target: Path, *, without_finished: bool = False) -> Manifest:
    """Write the archive, whole or not at all, and return its list.

    Raises: Invalid for a Postgres; Unavailable, when the database cannot be copied or is damaged; OSError.
    """
    source = database_file(settings)
    with staging_folder(settings.data_dir) as folder:
        _link_all(settings, folder)
        pointers = _copy_consistently(settings, source, folder)
        kept = {p.name for p in pointers if p.wanted or not without_finished}
        missing = sorted(name for name in kept if not (folder / name).exists())
        names = [DATABASE, *sorted(kept - set(missing)), *_beside(folder)]
        manifest = _describe(folder / DATABASE, missing)
        _write(target, folder, names, manifest)
    return manifest


def database_file(settings: Settings) -> Path:
    """The SQLite file. Raises: Invalid, when it is a Postgres, or is not there."""
    db = Database(settings.database_url)
    if not db.is_sqlite:
        raise Invalid(POSTGRES)
    path = Path(db.url.database or "")
    if not path.is_file():
        raise Invalid(f"there is no database {path}; give the directory of `trainyard up` with --data-dir")
    return path


@contextmanager
def staging_folder(data_dir: Path) -> Iterator[Path]:
    """A folder on the disk of the data, where files can be linked instead of copied; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=data_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link_all(settings: Settings, folder: Path) -> None:
    for path in (*settings.runs_dir.glob("*/checkpoint-*.pt"), *settings.runs_dir.glob("*/attempt-*.log")):
        _link(path, folder / "runs" / path.parent.name / path.name)
    for path in settings.images_dir.glob("[!.]*.npy"):
        _link(path, folder / "images" / path.name)


def _link(path: Path, target: Path) -> None:
    """A second name for the file, or a copy where the disk knows no links; nothing when it has just gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target, follow_symlinks=False)
    except FileNotFoundError:
        pass
    except OSError:
        shutil.copyfile(path, target, follow_symlinks=False)


def _copy_consistently(settings: Settings, source: Path, folder: Path) -> list[Pointer]:
    """Copy the database until every checkpoint it points to is linked; what its rows point to."""
    copy = folder / DATABASE
    for attempt in range(TRIES):
        copy.unlink(missing_ok=True)
        copy_database(source, copy)
        pointers = read_pointers(copy)
        for pointer in pointers:
            if not (folder / pointer.name).exists():
                _link(settings.runs_dir / pointer.run_id / pointer.file, folder / pointer.name)
        gone = [p for p in pointers if p.wanted and not (folder / p.name).exists()]
        if not gone or attempt + 1 == TRIES:
            break
        # Written and replaced while the database was copied; or it lies on another machine, and never comes.
        if not any((settings.runs_dir / p.run_id).exists() for p in gone):
            break
    return pointers


def read_pointers(database: Path) -> list[Pointer]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT id, state, checkpoint FROM run WHERE checkpoint IS NOT NULL"
        ).fetchall()
    found = []
    for run_id, state, text in rows:
        pointer = json.loads(text)
        while pointer is not None:
            found.append(Pointer(run_id, Path(pointer["file"]).name, state != FINISHED))
            pointer = pointer.get("previous") if state != FINISHED else None
    return found


def _beside(folder: Path) -> list[str]:
    """Logs and images, by their names in the archive."""
    paths = (*folder.glob("runs/*/attempt-*.log"), *folder.glob("images/*.npy"))
    return sorted(str(path.relative_to(folder)) for path in paths)


def _describe(database: Path, missing: list[str]) -> Manifest:
    with closing(sqlite3.connect(database)) as connection:
        runs = Counter(dict(connection.execute("SELECT state, count(*) FROM run GROUP BY state").fetchall()))
        [revision] = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return Manifest(
        format=FORMAT,
        version=version("trainyard"),
        schema_revision=revision,
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        runs=runs,
        missing=missing,
        files=[],
    )


def _write(target: Path, folder: Path, names: list[str], manifest: Manifest) -> None:
    """The archive, through a temporary file beside it; its list is completed as its files are read."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            if target.name.endswith((".gz", ".tgz")):
                with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
                    _fill(tar, folder, names, manifest)
            else:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    _fill(tar, folder, names, manifest)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise


def _fill(tar: tarfile.TarFile, folder: Path, names: list[str], manifest: Manifest) -> None:
    for name in names:
        with (folder / name).open("rb") as content:
            size = os.fstat(content.fileno()).st_size  # a log may grow meanwhile: its beginning is kept
            hashed = Hashed(content, size)
            tar.addfile(_member(name, size), hashed)
            manifest.files.append(Entry(name=name, size=size, sha256=hashed.sha256.hexdigest()))
    listing = manifest.model_dump_json(indent=1).encode()
    tar.addfile(_member(MANIFEST, len(listing)), io.BytesIO(listing))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    return member


@dataclass
class Hashed:
    """The first `left` bytes of a file, and the SHA-256 of what was read of them."""

    content: BinaryIO
    left: int
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

    def read(self, wanted: int = PIECE_BYTES) -> bytes:
        piece = self.content.read(min(wanted, self.left))
        self.left -= len(piece)
        self.sha256.update(piece)
        return piece


if __name__ == "__main__":
    sys.exit(main())
