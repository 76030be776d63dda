"""Read `.npy` files that hold arrays inside an object array, without running what is in them.

`numpy.save` of a dictionary, or of arrays of several shapes, writes a pickle behind the header, and
`numpy.load(allow_pickle=True)` runs whatever code stands there. Here the pickle is looked through first, opcode by
opcode, and then read by an unpickler that knows numpy's arrays, dtypes and scalars by name and makes them itself:
no class and no function of any module is ever looked up, so there is nothing that a file could call.

Formats: NumPy's NEP 1; pickle protocols 2 to 4 as NumPy 1 and 2 write them, those of Python 2 too.
"""

from __future__ import annotations

import os
import pickle  # for its Unpickler alone, with `find_class` replaced
import pickletools
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

__all__ = ["MAX_BYTES", "UnreadableArrays", "read_arrays", "read_stream"]

MAX_BYTES = 2 * 1024**3
MAX_OPCODES = 200_000  # a file of arrays has some dozens; one with lists of labels, one a label
MAX_DEPTH = 8
MAX_PLACES = 1_000_000
MAX_HEADER_BYTES = 10_000
MAX_LINE_BYTES = 200  # names in protocol 2 end with a line
KINDS = "biuf"  # truth values, integers, floats

Numbers = NDArray[Any]

OPCODES = frozenset(
    """
    PROTO FRAME STOP GLOBAL STACK_GLOBAL REDUCE BUILD MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
    MARK EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BINSTRING SHORT_BINSTRING
    """.split()  # noqa: SIM905  # a list literal would take forty lines
)


class UnreadableArrays(ValueError):
    """The file is not one of arrays; the message says why and what to do."""


def read_arrays(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Numbers]:
    """The arrays of numbers in the file, by name, read-only where they share its bytes.

    A dictionary gives its keys, a sequence its places ("0", "1"), both joined by dots where one holds another; an
    ordinary array is called "". Lists of numbers become arrays; texts and single numbers are passed by.

    Raises:
        UnreadableArrays: it is damaged, too large, or holds anything else.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise UnreadableArrays(f"{path.name} has {size:,} bytes, over {max_bytes:,}; save it in parts")
        try:
            found = read_stream(file, size, max_bytes)
        except UnreadableArrays as error:
            raise UnreadableArrays(
                f"{path.name} cannot be read as arrays: {error}. Save it again with numpy.savez, one name an array."
            ) from None
    if not found:
        raise UnreadableArrays(f"{path.name} holds no array of numbers")
    return found


def read_stream(file: IO[bytes], size: int, max_bytes: int) -> dict[str, Numbers]:
    """The arrays in the `size` bytes of an open file, by name as `read_arrays` names them; it must be able to seek.

    Raises:
        UnreadableArrays: without the name of the file, which the caller knows.
    """
    return dict(_list_arrays(_read(_Bounded(file, size), max_bytes)))


class _Bounded:
    """The file, which promises no more bytes than it has: a length in a pickle may claim any number."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.tell, self.seek = file.tell, file.seek

    @property
    def left(self) -> int:
        return self._size - self._file.tell()

    def read(self, count: int = -1) -> bytes:
        if count > self.left:
            raise UnreadableArrays("it is cut short")
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise UnreadableArrays("a name in it is too long")
        return line


def _read(file: _Bounded, max_bytes: int) -> Any:
    shape, fortran, dtype = _read_header(file)
    if not dtype.hasobject:
        if dtype.kind not in KINDS:
            raise UnreadableArrays(f"its type {dtype.str!r} is not one of numbers")
        return _array(file.read(file.left), dtype, shape, fortran)
    if dtype != np.dtype(object):
        raise UnreadableArrays("it mixes objects and numbers in one record")
    start = file.tell()
    _look_through(file)
    file.seek(start)
    array = _Unpickler(file, max_bytes).load_data()
    items = array.items if isinstance(array, _Array) else None
    if items is None or len(items) != prod(shape):
        raise UnreadableArrays("what follows the header is not the array that it announces")
    return items if shape else items[0]


def _read_header(file: _Bounded) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        version = npy.read_magic(file)
        return readers[version](file, max_header_size=MAX_HEADER_BYTES)
    except KeyError:
        raise UnreadableArrays("its version of the format is unknown") from None
    except Exception:  # noqa: BLE001  # numpy parses the header as Python, whose parser raises nearly anything
        raise UnreadableArrays("it does not begin with the header of a .npy file") from None


def _look_through(file: _Bounded) -> None:
    """Refuse, before anything is made, opcodes that arrays do not need, too many of them, and far memo places.

    A far place would make the unpickler allocate a table up to it: 64 GB for five bytes.
    """
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            if opcode.name not in OPCODES:
                raise UnreadableArrays(f"its pickle uses {opcode.name}, which arrays do not need")
            place = argument if opcode.name.endswith("PUT") else 0
            if count >= MAX_OPCODES or place >= MAX_OPCODES:  # type: ignore[operator]
                raise UnreadableArrays("its pickle is too long for one of arrays")
    except UnreadableArrays:
        raise
    except (ValueError, OverflowError, MemoryError) as error:
        raise UnreadableArrays(f"its pickle is damaged ({str(error)[:100]})") from None
    if file.left:
        raise UnreadableArrays("something follows its pickle")


class _Unpickler(pickle.Unpickler):
    """Makes stand-ins of what it is told to make; texts of Python 2 stay bytes."""

    def __init__(self, file: _Bounded, max_bytes: int) -> None:
        super().__init__(file, encoding="bytes")
        self._budget = max_bytes

    def load_data(self) -> Any:
        try:
            return self.load()
        except UnreadableArrays:
            raise
        except Exception as error:  # noqa: BLE001  # a damaged pickle raises nearly anything
            raise UnreadableArrays(f"its pickle is damaged ({type(error).__name__})") from None

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"
        makers: dict[str, Callable[..., Any]] = {
            "numpy.ndarray": _refuse,  # only ever named as the first argument of _reconstruct
            "numpy.dtype": _Dtype,
            "numpy.core.multiarray._reconstruct": _reconstruct,
            "numpy.core.multiarray.scalar": _scalar,
            "_codecs.encode": self._encode,
        }
        if wanted not in makers:
            raise UnreadableArrays(f"it wants {module[:60]}.{name[:60]}, which is not an array")
        return _Maker(makers[wanted])

    def _encode(self, text: str, encoding: object) -> bytes:
        """Bytes as protocol 2 writes them; one text may be named again and again, so what is made is counted."""
        self._budget -= len(text)
        if _text(encoding) != "latin1" or self._budget < 0:
            raise UnreadableArrays("its bytes are written in an unknown way")
        return text.encode("latin1")


class _Maker:
    """What a name in the pickle stands for: it can be called, and nothing in it can be replaced."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise UnreadableArrays("its pickle changes what it may only use")

    def __setstate__(self, state: object) -> None:
        raise UnreadableArrays("its pickle changes what it may only use")


class _Dtype:
    """`numpy.dtype(code, align, copy)`, whose byte order comes with its state."""

    __slots__ = ("_code", "dtype")

    def __init__(self, code: object, *_: object) -> None:
        self._code = _text(code)
        self.dtype: np.dtype[Any] | None = None

    def __setstate__(self, state: Sequence[Any]) -> None:
        order = _text(state[1])
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise UnreadableArrays("one of its types is a record")
        dtype = np.dtype(order + self._code)
        if dtype.kind not in KINDS + "O":
            raise UnreadableArrays(f"its type {dtype.str!r} is not one of numbers")
        self.dtype = dtype


class _Array:
    """`numpy.ndarray`, as it comes: numbers in `numbers`, or objects in `items`."""

    __slots__ = ("items", "numbers")

    def __init__(self) -> None:
        self.items: list[Any] | None = None
        self.numbers: Numbers | None = None

    def __setstate__(self, state: Sequence[Any]) -> None:
        shape, wanted, fortran, content = state[-4:]
        dtype = wanted.dtype
        if dtype.hasobject:
            if not isinstance(content, list) or len(content) != prod(shape):
                raise UnreadableArrays("an array of objects has another size than it announces")
            self.items = content
        else:
            self.numbers = _array(content, dtype, shape, bool(fortran))


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(wanted: _Dtype, content: bytes) -> Any:
    assert wanted.dtype is not None
    return _array(content, wanted.dtype, (1,), False)[0]


def _refuse(*_: object) -> None:
    raise UnreadableArrays("it makes an array in an unknown way")


def _array(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> Numbers:
    whole = all(isinstance(length, int) and length >= 0 for length in shape)
    if dtype.hasobject or not whole or prod(shape) * dtype.itemsize != len(content):
        raise UnreadableArrays(
            f"an array of shape {str(tuple(shape))[:80]} has another size than it announces"
        )
    try:
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    except ValueError:  # no bytes, and lengths beyond all measure beside a 0
        raise UnreadableArrays(f"an array of shape {str(tuple(shape))[:80]} is none") from None


def _text(value: object) -> str:
    text = value.decode("latin1") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise UnreadableArrays("a text is expected where there is none")
    return text


def _list_arrays(tree: Any) -> Iterator[tuple[str, Numbers]]:
    """Every array in the tree with its name.

    Lists in a pickle may hold one another: ten of them, ten times each, are ten thousand million places.
    """
    waiting = [("", tree, 0)]
    places = 0
    while waiting:
        name, part, depth = waiting.pop()
        if isinstance(part, _Array):
            part = part.numbers if part.items is None else part.items
        if isinstance(part, np.ndarray):
            yield name, part
            continue
        inner = _inner(name, part)
        places += len(inner)
        if depth >= MAX_DEPTH or places > MAX_PLACES:
            raise UnreadableArrays(f"it is nested over {MAX_DEPTH} deep or has over {MAX_PLACES:,} places")
        if isinstance(part, list | tuple) and inner and {type(item) for item in part} <= {int, float}:
            yield name, _numbers([item for _, item in inner])
        else:
            waiting += [(f"{name}.{key}" if name else key, item, depth + 1) for key, item in reversed(inner)]


def _inner(name: str, part: Any) -> list[tuple[str, Any]]:
    """What a dictionary or a sequence holds, by name; nothing for what is passed by."""
    match part:
        case dict():
            return [(_key(key), item) for key, item in part.items()]
        case list() | tuple():
            return [(str(place), item) for place, item in enumerate(part[: MAX_PLACES + 1])]
        case str() | bytes() | int() | float() | np.number() | np.bool_() | None:
            return []
    raise UnreadableArrays(f"it holds something else than arrays at {name[:60]!r}")


def _numbers(items: Sequence[int | float]) -> Numbers:
    try:
        return np.array(items, np.int64 if all(type(item) is int for item in items) else np.float64)
    except OverflowError:
        raise UnreadableArrays("a number in it is too large") from None


def _key(key: object) -> str:
    if not isinstance(key, str | bytes | int):
        raise UnreadableArrays("a key of its dictionary is no text")
    return str(key) if isinstance(key, int) else _text(key)[:200]
