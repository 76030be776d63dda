"""Read `.npz` files (zip archives of `.npy` files) that nobody vouches for: within bounds, and running nothing.

What a member claims is believed nowhere: its size counts against a bound before it is unpacked, and its header against
its size before memory is asked for (`ml.npy`). A small file that unpacks to more than the bound is refused unread.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

from ml.npy import MAX_BYTES, Numbers, UnreadableArrays, read_stream

MAX_MEMBERS = 1_000
SUFFIX = ".npy"


def list_arrays(path: Path) -> dict[str, str]:
    """The names of the arrays in the file, each with the member that holds it; nothing is unpacked.

    Raises:
        UnreadableArrays: it is no such file.
        OSError: it cannot be opened.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UnreadableArrays(f"{path.name} is no .npz file ({error}); save it with numpy.savez") from None
    if len(members) > MAX_MEMBERS or len(set(members)) != len(members):
        raise UnreadableArrays(
            f"{path.name} has over {MAX_MEMBERS:,} members, or two of one name; save it again with numpy.savez"
        )
    return {member.removesuffix(SUFFIX): member for member in members if member.endswith(SUFFIX)}


def read_npz(path: Path, names: Collection[str], max_bytes: int = MAX_BYTES) -> dict[str, Numbers]:
    """These arrays of the file; the others stay packed.

    Raises:
        UnreadableArrays: one is not there, damaged, no array of numbers, or all are too large together.
        OSError: the file cannot be opened.
    """
    members = list_arrays(path)
    missing = [name for name in names if name not in members]
    if missing:
        raise UnreadableArrays(f"{path.name} has no array {', '.join(missing)}")
    with zipfile.ZipFile(path) as archive:
        infos = {name: archive.getinfo(members[name]) for name in names}
        total_bytes = sum(info.file_size for info in infos.values())
        if total_bytes > max_bytes:
            raise UnreadableArrays(
                f"{path.name} unpacks to {total_bytes:,} bytes, over {max_bytes:,}; save the images as uint8, or as an "
                f"image folder"
            )
        return {name: _read_member(archive, info, name, max_bytes) for name, info in infos.items()}


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, max_bytes: int) -> Numbers:
    try:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # all that numpy writes
            raise UnreadableArrays("it is compressed in another way than numpy's")
        with archive.open(info) as file:
            found = read_stream(file, info.file_size, max_bytes)
            if file.read(1):
                raise UnreadableArrays("something follows the array")
    except (
        UnreadableArrays,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise UnreadableArrays(
            f"{archive.filename and Path(archive.filename).name}: {name} cannot be read ({error}); save it again with "
            f"numpy.savez"
        ) from None
    if list(found) != [""]:
        raise UnreadableArrays(
            f"{name} is an array of objects; save it again with numpy.savez, one name an array"
        )
    return found[""]
