"""Arrays inside object arrays: read as they were saved, and nothing that a file says is ever run."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.lib import format as npy

from ml.npy import MAX_OPCODES, UnreadableArrays, read_arrays


def parts() -> dict[str, np.ndarray[Any, Any]]:
    """The shapes of the class's file, small."""
    rng = np.random.default_rng(0)
    return {
        "train_X": rng.integers(0, 256, (60, 28, 28), np.uint8),
        "test_X": rng.integers(0, 256, (10, 28, 28), np.uint8),
        "train_y": rng.integers(0, 10, 60),
        "test_y": rng.integers(0, 10, 10).astype(np.int32),
    }


def objects(items: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def in_a_cell(value: Any) -> np.ndarray[Any, Any]:
    cell = np.empty((), object)
    cell[()] = value
    return cell


def save(path: Path, value: Any) -> Path:
    np.save(path, value, allow_pickle=True)
    return path


def with_pickle(path: Path, content: bytes, shape: tuple[int, ...] = ()) -> Path:
    """A file with the header of an object array and this behind it."""
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": shape})
        file.write(content)
    return path


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


# -- what is read ----------------------------------------------------------------------------------------------------


def test_a_dictionary_of_arrays(tmp_path: Path) -> None:
    same(read_arrays(save(tmp_path / "mnist.npy", parts())), parts())


def test_a_list_of_arrays_of_several_shapes(tmp_path: Path) -> None:
    path = save(tmp_path / "mnist.npy", objects(list(parts().values())))
    same(read_arrays(path), {str(place): array for place, array in enumerate(parts().values())})


def test_pairs_of_arrays_lists_of_labels_and_what_is_passed_by(tmp_path: Path) -> None:
    x, y = parts()["train_X"], parts()["train_y"]
    train = (x, y.tolist())
    about = {"title": "MNIST", "classes": 10, "scale": 1.5, "note": None, "mean": np.float32(0.13)}
    path = save(tmp_path / "a.npy", {"train": train, "test": [np.asfortranarray(x), y > 4], "about": about})
    same(read_arrays(path), {"train.0": x, "train.1": y, "test.0": x, "test.1": y > 4})


def test_an_ordinary_array_and_one_in_fortran_order(tmp_path: Path) -> None:
    x = parts()["train_X"]
    same(read_arrays(save(tmp_path / "a.npy", x)), {"": x})
    same(read_arrays(save(tmp_path / "b.npy", np.asfortranarray(x.astype(">f8")))), {"": x.astype(">f8")})


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_what_older_versions_of_numpy_wrote(tmp_path: Path, protocol: int, module: str) -> None:
    """NumPy 1 names numpy.core and writes protocol 3 (2 before 1.17); names differ in length, so no frames."""
    cell = in_a_cell(parts())
    content = pickle.dumps(cell, protocol).replace(b"numpy._core.multiarray", f"{module}.multiarray".encode())
    if protocol == 4 and module == "numpy.core":
        content = _renamed(pickle.dumps(cell, 4))
    same(read_arrays(with_pickle(tmp_path / "a.npy", content)), parts())


def _renamed(content: bytes) -> bytes:
    """Protocol 4 as NumPy 1 names its modules: texts have their length before them, frames hold it too."""
    old, new = b"numpy._core.multiarray", b"numpy.core.multiarray"
    unframed = b"".join(
        content[at:end]
        for (op, at), (_, end) in zip(
            _places(content), [*_places(content)[1:], (None, len(content))], strict=True
        )
        if op != "FRAME"
    )
    return unframed.replace(bytes([0x8C, len(old)]) + old, bytes([0x8C, len(new)]) + new)


def _places(content: bytes) -> list[tuple[Any, int]]:
    return [(op.name, at or 0) for op, _, at in pickletools.genops(content)]


def test_what_python_2_wrote(tmp_path: Path) -> None:
    """Its texts are bytes: protocol 2 with BINSTRING where Python 3 has an encoded text."""
    pixels = bytes(range(6))
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01)cnumpy\ndtype\n"
        b"U\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]}"
        b"U\x01xcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T\x06\x00\x00\x00" + pixels + b"tbsatb."
    )
    same(
        read_arrays(with_pickle(tmp_path / "a.npy", content)),
        {"x": np.frombuffer(pixels, np.uint8).reshape(2, 3)},
    )


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: "." not in name),
        st_numpy.arrays(
            st.sampled_from(["?", "u1", ">i2", "<i8", "<f2", ">f4", "<f8"]), st_numpy.array_shapes(max_dims=4)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_arrays_come_back_bit_for_bit(given: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = read_arrays(save(Path(folder) / "a.npy", given))
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in found.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in given.items()
    }


# -- what is refused -------------------------------------------------------------------------------------------------


class Call:
    """Pickled, it is a call of `function` when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def calls() -> dict[str, Any]:
    return {
        "os.system": Call(os.system, "touch exploded"),
        "posix.mkdir": Call(os.mkdir, "exploded"),
        "eval": Call(eval, "__import__('os').mkdir('exploded')"),
        "exec": Call(exec, "open('exploded', 'w')"),
        "open": Call(open, "exploded", "w"),
        "getattr": Call(getattr, object, "__subclasses__"),
        "subprocess": Call(subprocess.Popen, ["touch", "exploded"]),
        "numpy.load": Call(np.load, "exploded.npy"),
        "numpy.save": Call(np.save, "exploded", np.zeros(1)),
        "numpy.memmap": Call(np.memmap, "exploded", "u1", "w+", 0, (4,)),
        "numpy.fromfile": Call(np.fromfile, "/etc/hostname", "u1"),
        "numpy.zeros": Call(np.zeros, (2**40,)),
        "numpy.ndarray": Call(np.ndarray, (2**40,), "u1"),
        "pickle.loads": Call(pickle.loads, b"cposix\nmkdir\n(S'exploded'\ntR."),
        "torch": Call(__import__("torch").load, "exploded.pt"),
        "a class of ours": Path("exploded"),
        "a set": {1, 2},
        "complex numbers": np.zeros(2, complex),
        "texts": np.array(["a", "b"]),
        "times": np.array(["2026-01-01"], "datetime64[D]"),
        "a record": np.zeros(2, [("a", "i4"), ("b", "O")]),
    }


@pytest.mark.parametrize("name", calls())
@pytest.mark.parametrize("where", ["alone", "in a dictionary", "in a list", "deep inside"])
def test_nothing_but_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    evil = calls()[name]
    x = parts()["train_X"]
    value = {
        "alone": in_a_cell(evil),
        "in a dictionary": {"x": x, "y": evil},
        "in a list": objects([x, evil]),
        "deep inside": {"x": [x, ({"y": objects([evil])},)]},
    }[where]
    path = save(tmp_path / "a.npy", value)
    with pytest.raises(UnreadableArrays, match=r"a\.npy cannot be read as arrays: .*numpy\.savez"):
        read_arrays(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


RECONSTRUCT = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\x04K\x01r\xff\xff\xff\x7f.", id="a memo place far away: 16 GB"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", id="bytes of 2^62"),
        pytest.param(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.", id="a text of 2^40"),
        pytest.param(b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", id="a frame of 2^62"),
        pytest.param(b"\x80\x04\x8b" + struct.pack("<i", 2**30) + b"x.", id="an integer of 2^30 bytes"),
        pytest.param(b"\x80\x04" + b"]" * (MAX_OPCODES + 1) + b".", id="more opcodes than arrays need"),
        pytest.param(b"\x80\x04]" + b"2" * 1000 + b".", id="DUP"),
        pytest.param(b"\x80\x02cos\nsystem\n(U\x02lstR.", id="os.system by hand"),
        pytest.param(b"(ios\nsystem\n.", id="INST"),
        pytest.param(b"\x80\x02\x82\x01.", id="the extension registry"),
        pytest.param(b"Pid\n.", id="a persistent id"),
        pytest.param(RECONSTRUCT + b"}\x8c\x05_makeNs\x86b.", id="the maker given another state"),
        pytest.param(RECONSTRUCT + b"N}\x8c\x05_makeNs\x86b.", id="the maker given slots"),
        pytest.param(RECONSTRUCT + b")R(K\x01)K\x01\x89)tb.", id="a state that is none"),
        pytest.param(RECONSTRUCT + b")RNb.", id="no state"),
        pytest.param(RECONSTRUCT + b")R.", id="an array without content"),
        pytest.param(b"\x80\x04cnumpy\nndarray\n)R.", id="ndarray called"),
        pytest.param(b"\x80\x04]q\x00h\x00a.", id="a list that holds itself"),
        pytest.param(b"\x80\x04N.N.", id="something behind the end"),
        pytest.param(b"\x80\x04}]Ns.", id="a list as a key"),
        pytest.param(b"\x80\x04" + b"h\x07.", id="a place never kept"),
        pytest.param(b"\x80\x04.", id="nothing"),
        pytest.param(b"", id="no pickle"),
    ],
)
def test_a_hostile_pickle_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    path = with_pickle(tmp_path / "a.npy", content)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableArrays, match="cannot be read as arrays"):
            read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_lists_within_lists_do_not_multiply(tmp_path: Path) -> None:
    """Each of seven lists holds the one before a thousand times: 10^21 places in four kB."""
    lists = b"]q\x00" + b"".join(
        b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 1000 + b"e" for i in range(1, 7)
    )
    dtype = b"cnumpy\ndtype\n\x8c\x02O8\x89\x88\x87R(K\x03\x8c\x01|NNNK\x00K\x00K?tb"
    head = RECONSTRUCT + b")R(K\x01K\x07\x85" + dtype + b"\x89](" + lists + b"etb."
    path = with_pickle(tmp_path / "a.npy", head, (7,))
    with pytest.raises(UnreadableArrays, match="places"):
        read_arrays(path)


@pytest.mark.parametrize("cut", [0, 5, 8, 60, 127, 130, 200, 1_000, 20_000])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    for value in (parts(), parts()["train_X"]):
        path = save(tmp_path / "a.npy", value)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(UnreadableArrays):
            read_arrays(path)


@given(st.integers(0, 900), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read_never_worse(place: int, byte: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(
            Path(folder) / "a.npy", {"x": np.arange(6).reshape(2, 3), "y": [np.ones(2, "f4"), "text"]}
        )
        content = bytearray(path.read_bytes())
        content[place % len(content)] = byte
        path.write_bytes(content)
        with suppress(UnreadableArrays):
            read_arrays(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<u1', 'fortran_order': False, 'shape': (9223372036854775807, 8), }",
        b"{'descr': '<u1', 'fortran_order': False, 'shape': (0, 9223372036854775807, 9), }",
        b"{'descr': '<u1', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1000000000000,), }",
        b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }",
        b"{'descr': '|V8', 'fortran_order': False, 'shape': (1,), }",
        b"__import__('os').mkdir('exploded')",
        b"(" * 5_000,
        b"[" * 60_000,
        b"",
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"12345678")
    with pytest.raises(UnreadableArrays):
        read_arrays(path)
    assert not (tmp_path / "exploded").exists()


def test_what_is_no_npy_file_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(pickle.dumps(parts()))
    with pytest.raises(UnreadableArrays, match="does not begin with the header"):
        read_arrays(path)
    save(path, {"title": "nothing"})
    with pytest.raises(UnreadableArrays, match="no array of numbers"):
        read_arrays(path)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        file.truncate(5 * 1024**3)  # it takes no room on the disk
    with pytest.raises(UnreadableArrays, match="5,368,709,120 bytes, over 2,147,483,648"):
        read_arrays(path)


def test_memory_stays_at_twice_the_file(tmp_path: Path) -> None:
    x = np.zeros((8_000, 28, 28), np.float32)  # 25 MB
    path = save(tmp_path / "a.npy", {"x": x})
    tracemalloc.start()
    try:
        found = read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 2.1 * x.nbytes
    finally:
        tracemalloc.stop()
    assert found["x"].shape == x.shape


def test_no_module_is_imported_because_a_file_names_it(tmp_path: Path) -> None:
    path = with_pickle(tmp_path / "a.npy", b"\x80\x02cantigravity\nfly\n.")
    code = (
        "import sys; from pathlib import Path; from ml.npy import *\n"
        "try: read_arrays(Path(sys.argv[1]))\n"
        "except UnreadableArrays as error: print(error)\n"
        "print('antigravity' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    ).stdout
    assert "it wants antigravity.fly, which is not an array" in said
    assert said.endswith("False\n")
