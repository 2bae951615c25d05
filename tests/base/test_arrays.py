"""NumPy's files from elsewhere: plain arrays come back as they were, and nothing else comes back at all."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.arrays import load_array, load_arrays

ARRAYS: dict[str, NDArray[Any]] = {
    "z last": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a first": np.asfortranarray(np.arange(24, dtype=">i8").reshape(2, 3, 4)),
    "scalar": np.array(2.5, np.float16),
    "empty": np.zeros((0, 7), np.uint8),
    "text": np.array(["one", "two, ü"]),
    "mixed": np.array([(1, 2.0)], [("a", "<i2"), ("b", "<f8")]),
    "flags": np.array([True, False]),
}
MAX_BYTES = 2**23
"""Of memory, to refuse a file of a few bytes."""


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._marker),)


def make_npy(shape: str, data: bytes = b"", *, descr: str = "'<f4'", version: tuple[int, int] = (1, 0)) -> bytes:
    return wrap_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode(), data, version)


def wrap_header(header: bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def save_arrays(path: Path, **arrays: NDArray[Any]) -> bytes:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path.read_bytes()


def refuse(folder: Path, npy: bytes, reason: str) -> None:
    """Has both readers refuse it, with a reason and without taking memory."""
    (folder / "some.npy").write_bytes(npy)
    with zipfile.ZipFile(folder / "some.npz", "w") as archive:
        archive.writestr("a.npy", npy)
    for load, name in ((load_array, "some.npy"), (load_arrays, "some.npz")):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                load(folder / name)
            assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
        finally:
            tracemalloc.stop()
        assert reason in str(caught.value)


def assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.flags.f_contiguous == expected.flags.f_contiguous
    assert found.tobytes() == expected.tobytes()


def test_load_arrays_of_what_savez_wrote_gives_it_back_in_its_order(tmp_path: Path) -> None:
    save_arrays(tmp_path / "some.npz", **ARRAYS)
    found = load_arrays(tmp_path / "some.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert_same(found[name], array)


@pytest.mark.parametrize("name", list(ARRAYS))
def test_load_array_of_what_save_wrote_gives_it_back(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "some.npy", ARRAYS[name])
    assert_same(load_array(tmp_path / "some.npy"), ARRAYS[name])


def test_load_arrays_of_an_archive_without_arrays_is_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path / "some.npz")
    with pytest.raises(ValueError, match="something before the first array"):
        load_arrays(tmp_path / "some.npz")


def test_load_array_of_pickled_objects_is_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    np.save(tmp_path / "trap.npy", np.array([Payload(marker)], object), allow_pickle=True)
    trap = (tmp_path / "trap.npy").read_bytes()
    np.load(tmp_path / "trap.npy", allow_pickle=True)
    assert marker.is_dir()
    marker.rmdir()
    refuse(tmp_path, trap, "pickled objects")
    refuse(tmp_path, make_npy("(1,)", trap[-8:], descr="[('a', '|O')]"), "pickled objects")
    refuse(tmp_path, pickle.dumps(Payload(marker)), "the magic string is not correct")
    assert not marker.exists()


def test_load_arrays_of_a_sound_archive_with_one_pickled_array_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    save_arrays(tmp_path / "trap.npz", sound=ARRAYS["z last"], trap=np.array([Payload(marker)], object))
    with pytest.raises(ValueError, match="^pickled objects$"):
        load_arrays(tmp_path / "trap.npz")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("npy", "reason"),
    [
        (make_npy("(1000000000000,)", b"few"), "float32 (1000000000000,) is declared, and 3 bytes are stored"),
        (make_npy("(1000000, 1000000)", bytes(8)), "float32 (1000000, 1000000) is declared, and 8 bytes are stored"),
        (make_npy("(1000000000000,)", version=(2, 0)), "version (2, 0) of NumPy's format"),
        (make_npy("(2,)", bytes(9)), "float32 (2,) is declared, and 9 bytes are stored"),
        (make_npy("(2,)", bytes(7)), "float32 (2,) is declared, and 7 bytes are stored"),
        (make_npy("(2,)"), "float32 (2,) is declared, and 0 bytes are stored"),
        (make_npy("()", bytes(8)), "float32 () is declared, and 8 bytes are stored"),
        (make_npy("(1,)", bytes(4), version=(3, 0)), "version (3, 0) of NumPy's format"),
        (make_npy("(1,)", bytes(4), version=(9, 9)), "version (9, 9) of NumPy's format"),
        (make_npy("(1,)", bytes(4), descr="'nothing'"), "descr is not a valid dtype descriptor"),
        (make_npy("(-1,)", bytes(4)), "float32 (-1,) is declared"),
        (make_npy("(-1, -1)", bytes(4)), ""),
        (wrap_header(b"__import__('os').mkdir('marker')"), "malformed node or string"),
        (wrap_header(b"{}"), "Header does not contain the correct keys"),
        (wrap_header(b"{" + b" " * 20_000 + b"}"), "Header info length (20002) is large"),
        (b"", "EOF: reading magic string"),
        (b"\x93NUMPY\x01\x00\x40", "EOF: reading array header length"),
        (b"<html>no array</html>", "the magic string is not correct"),
    ],
)
def test_load_array_of_another_size_or_kind_is_refused_without_memory(tmp_path: Path, npy: bytes, reason: str) -> None:
    refuse(tmp_path, npy, reason)
    assert not Path("marker").exists()


@pytest.mark.parametrize(
    "npy",
    [
        make_npy("(1000000000000,)", descr="'|S0'"),
        make_npy("(1000000000000,)", descr="'|V0'"),
        make_npy("(1000000000000,)", descr="[]"),
        make_npy("(9223372036854775808, 0)"),
        make_npy(f"({10**30}, 0)"),
        make_npy("(True,)", bytes(4)),
        make_npy("(1,)", bytes(4), descr="('<f4',)"),
        make_npy("(1,)", bytes(4), descr="'f4,,'"),
        wrap_header(b"{'descr': ("),
        wrap_header(b"'''never ends"),
        wrap_header(b"a\n  b\n c\n"),
        wrap_header(b"(" * 9000),
        wrap_header(b"-" * 9000 + b"1"),
        wrap_header(b"{" * 90 + b"}" * 90),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
    ],
    ids=lambda npy: repr(npy[10:60]),
)
def test_load_array_of_a_header_that_makes_no_sense_is_refused_with_a_value_error(tmp_path: Path, npy: bytes) -> None:
    refuse(tmp_path, npy, "")


def test_load_arrays_of_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "some.npz", a=np.arange(3))
    with pytest.raises(ValueError, match=r"^a\.npy is compressed$"):
        load_arrays(tmp_path / "some.npz")
    np.savez_compressed(tmp_path / "some.npz", a=np.zeros(10**6))
    with pytest.raises(ValueError, match=r"^a\.npy is compressed$|^arrays that overlap$"):
        load_arrays(tmp_path / "some.npz")


def test_load_arrays_of_an_archive_behind_something_else_is_refused(tmp_path: Path) -> None:
    data = save_arrays(tmp_path / "some.npz", **ARRAYS)
    (tmp_path / "some.npz").write_bytes(b"\x7fELF" + data)
    with pytest.raises(ValueError, match="^something before the first array$"):
        load_arrays(tmp_path / "some.npz")


def test_load_arrays_of_members_that_overlap_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    save_arrays(path, a=np.zeros(1000))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b", b"")
        archive.filelist += [copy(archive.filelist[0]) for _ in range(50)]
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="^arrays that overlap$"):
        load_arrays(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_load_arrays_of_a_file_that_is_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    data = save_arrays(tmp_path / "some.npz", **ARRAYS)
    (tmp_path / "some.npz").write_bytes(data[: int(len(data) * share)])
    with pytest.raises((ValueError, OSError, zipfile.BadZipFile)):
        load_arrays(tmp_path / "some.npz")


def test_load_arrays_of_an_edited_array_is_refused_by_its_checksum(tmp_path: Path) -> None:
    data = save_arrays(tmp_path / "some.npz", a=np.full(100, 7, np.uint8))
    (tmp_path / "some.npz").write_bytes(data.replace(bytes([7]) * 100, bytes([8]) * 100))
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
        load_arrays(tmp_path / "some.npz")


@pytest.mark.parametrize("length", [0, 7, 9, 60, 127, 130])
def test_load_array_of_a_file_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    buffer = io.BytesIO()
    np.save(buffer, ARRAYS["z last"])
    refuse(tmp_path, buffer.getvalue()[:length], "")


def test_load_arrays_without_a_file_is_an_os_error(tmp_path: Path) -> None:
    for load in (load_array, load_arrays):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "nowhere")
        with pytest.raises(IsADirectoryError):
            load(tmp_path)
