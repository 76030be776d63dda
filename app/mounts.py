"""Which file system a path lies on: SQLite's write-ahead log needs memory that its users share, so a local disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "afpfs", "ncpfs", "davfs",
                     "ceph", "glusterfs", "lustre", "beegfs", "gpfs",
                     "fuse.sshfs", "fuse.rclone", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse"))  # fmt: skip


def network_kind(path: Path, mounts: Iterable[tuple[str, str]] | None = None) -> str | None:
    """The file system's name when other machines may have it too; None for a local one, or when nobody can tell.

    `mounts` are pairs of mount point and kind; this machine's by default.
    """
    if mounts is None:
        mounts = [(mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)]
    path = path.resolve()
    holding = [(point, kind) for point, kind in mounts if path == Path(point) or Path(point) in path.parents]
    if not holding:
        return None
    _, kind = max(holding, key=lambda mount: len(Path(mount[0]).parts))
    return kind if kind.lower() in NETWORK else None


def describe_network(path: Path) -> str | None:
    """Why a SQLite database must not lie there, with the remedy; None when it may."""
    kind = network_kind(path)
    if kind is None:
        return None
    return (
        f"{path} lies on a network file system ({kind}), where SQLite loses and damages data; "
        "put the data directory on a local disk (--data-dir), or use Postgres (TRAINYARD_DATABASE_URL)"
    )
