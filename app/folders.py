"""The one way to a file whose name has to do with a request: a plain file right inside a folder of ours, or none.

A path is built from a folder and single names, and then what was built is looked at, for checking texts alone is where
other servers failed again and again. A symbolic link is no file of ours, wherever it leads.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple


class PlainFile(NamedTuple):
    path: Path
    status: os.stat_result


def find_file(base: Path, folder: str, name: str) -> PlainFile | None:
    """`base/folder/name` if that is a regular file; None otherwise. Both parts are single names; `folder` may be ''."""
    parts = [part for part in (folder, name) if part]
    if not name or not all(is_name(part) for part in parts):
        return None
    path = base.joinpath(*parts)
    try:
        if path.resolve(strict=True) != base.resolve().joinpath(*parts):
            return None  # a link on the way
        status = path.lstat()
    except (OSError, RuntimeError):  # not there, too long a name, a loop of links
        return None
    return PlainFile(path, status) if stat.S_ISREG(status.st_mode) else None


def delete_folder(base: Path, name: str) -> None:
    """Delete `base/name` with all in it; links in it go, and what they lead to stays. What cannot be deleted stays."""
    if is_name(name):
        shutil.rmtree(base / name, ignore_errors=True)  # it refuses a link, and follows none


def is_name(text: str) -> bool:
    """Whether it names something right inside a folder: not the folder itself, nothing above and nothing below."""
    return bool(text) and text not in (".", "..") and not set(text) & {"/", "\\", "\0"}
