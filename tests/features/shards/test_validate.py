"""Validation of untrusted HDF5 files: references to other files and implausible sizes are rejected."""

from __future__ import annotations

import ctypes
import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from features.shards.hdf5 import build_file, write_texts
from features.shards.validate import MAX_RATIO, ForeignFileError, open_untrusted_hdf5, validate_untrusted_hdf5
from tests.systems import skip_on_windows

pytestmark = pytest.mark.unit

Fill = Callable[[h5py.File], object]
VALUES = np.arange(4096, dtype=np.float32)
SECRET = b"the bytes of somebody's secret"


def build(fill: Fill, sizeof_length: int = 8) -> bytes:
    """Build a file of the oldest HDF5 version, whose structures have no checksums and can be edited."""
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_sizes(8, sizeof_length)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    buffer = io.BytesIO()
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, buffer)
    with h5py.File(h5py.h5f.create(b"in memory", h5py.h5f.ACC_TRUNC, creation, access)) as file:
        fill(file)
    return buffer.getvalue()


def check(data: bytes, max_declared: int | None = None) -> None:
    with h5py.File(io.BytesIO(data)) as file:
        validate_untrusted_hdf5(file, data, max_declared)


def check_rejected(data: bytes, item: str, problem: str = "", max_declared: int | None = None) -> None:
    """Check that a file is rejected because of an object, and that the problem mentions a value or term."""
    with pytest.raises(ForeignFileError) as caught:
        check(data, max_declared)
    assert caught.value.item == item
    assert problem in caught.value.problem


@contextmanager
def watch(path: Path) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the file was opened or read, including by native libraries."""
    skip_on_windows("inotify")
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        pytest.skip("needs inotify")
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    in_access_or_open = 0x21
    assert libc.inotify_add_watch(descriptor, os.fsencode(path), in_access_or_open) >= 0

    def was_read() -> bool:
        try:
            return bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return False

    try:
        yield was_read
    finally:
        os.close(descriptor)


def add_virtual(group: h5py.Group, name: str, secret: Path, size: int) -> None:
    layout = h5py.VirtualLayout((size,), np.uint8)
    layout[:] = h5py.VirtualSource(str(secret), "secret", (size,), np.uint8)
    group.create_virtual_dataset(name, layout)


def link_twice(file: h5py.File) -> None:
    file["once"] = VALUES
    file["deep/again"] = file["once"]


def fill_valid(file: h5py.File) -> None:
    file["plain"] = VALUES
    file["scalar"] = np.float32(3)
    file["empty"] = np.zeros((0, 3), np.float32)
    file.create_dataset("growing", (0, 3), np.float16, maxshape=(None, 3))
    file.create_dataset("every", data=VALUES, chunks=(1000,), compression="gzip", shuffle=True, fletcher32=True)
    file["deep/er/number"] = np.int8(1)
    write_texts(file, "texts", ["one", "two"])


@pytest.mark.parametrize(
    "fill",
    [
        fill_valid,
        link_twice,
        lambda file: None,
        lambda file: file.attrs.update(text="of variable length", texts=["more", "of it"]),
        lambda file: file.create_group("deep").create_dataset("d", data=VALUES).attrs.update(text="of variable length"),
        lambda file: file.create_dataset("d", data=VALUES, compression="gzip", compression_opts=1),
        lambda file: file.create_dataset("d", data=VALUES, compression=hdf5plugin.Zstd(clevel=1)),
        lambda file: file.create_dataset("d", data=np.zeros(100_000, np.float16), compression="gzip"),
        lambda file: file.create_dataset("d", data=np.zeros(3, [("a", "<f4"), ("b", "S7")])),
        lambda file: file.create_dataset(b"not utf-8 \xff", data=VALUES),
    ],
)
def test_validate_valid_file_passes(fill: Fill) -> None:
    def fill_in(file: h5py.File) -> None:
        fill(file)

    check(build(fill))
    check(build_file(fill_in))


def test_validate_dataset_with_two_links_is_counted_once() -> None:
    data = build(link_twice)
    check(data, VALUES.nbytes)
    check_rejected(data, "/", f"{VALUES.nbytes - 1:,}", VALUES.nbytes - 1)


def test_validate_limit_applies_to_all_datasets_together() -> None:
    data = build(lambda file: [file.create_dataset(f"deep/{n}", data=VALUES) for n in range(3)])
    check(data, 3 * VALUES.nbytes)
    check_rejected(data, "/", "49,151", 3 * VALUES.nbytes - 1)


def test_validate_limit_applies_to_whole_chunks() -> None:
    data = build(lambda file: file.create_dataset("d", data=np.zeros(5, np.uint8), chunks=(4,), compression="gzip"))
    check(data, 8)
    check_rejected(data, "/", "8 ", 7)


def test_validate_cyclic_links_terminates() -> None:
    def fill(file: h5py.File) -> None:
        file["a/b/d"] = VALUES
        file["a/b/back"] = file["a"]
        file["a/b/root"] = file["/"]

    check(build(fill), VALUES.nbytes)


def test_open_untrusted_hdf5_yields_the_validated_file(tmp_path: Path) -> None:
    (tmp_path / "some.h5").write_bytes(build(fill_valid))
    with open_untrusted_hdf5(tmp_path / "some.h5") as (file, source):
        assert isinstance(file, h5py.File)
        assert source.identity.num_bytes == (tmp_path / "some.h5").stat().st_size


@pytest.mark.parametrize("place", ["", "deep/er/"])
@pytest.mark.parametrize(("kind", "problem"), [("storage", "file"), ("virtual", "file"), ("link", "link")])
def test_validate_reference_to_another_file_is_rejected_without_opening_it(
    tmp_path: Path, kind: str, problem: str, place: str
) -> None:
    secret = tmp_path / "secret"
    if kind == "storage":
        secret.write_bytes(SECRET)
    else:
        secret.write_bytes(build(lambda file: file.create_dataset("secret", data=np.frombuffer(SECRET, np.uint8))))

    def fill(file: h5py.File) -> None:
        group = file.require_group(f"/{place}")
        if kind == "storage":
            group.create_dataset("d", len(SECRET), np.uint8, external=[(str(secret), 0, len(SECRET))])
        elif kind == "virtual":
            add_virtual(group, "d", secret, len(SECRET))
        else:
            group["d"] = h5py.ExternalLink(str(secret), "/secret")

    data = build(fill)
    (tmp_path / "some.h5").write_bytes(data)
    with watch(secret) as was_read:
        check_rejected(data, f"/{place}d", problem)
        with h5py.File(tmp_path / "some.h5") as file:
            with pytest.raises(ForeignFileError):
                validate_untrusted_hdf5(file, data)
            assert not was_read()
            assert file[f"{place}d"][:].tobytes() == SECRET
        assert was_read()


@pytest.mark.parametrize(
    ("fill", "item", "problem"),
    [
        (lambda file: file.update(d=VALUES, s=h5py.SoftLink("/d")), "/s", "link"),
        (lambda file: file.update(s=h5py.SoftLink("/nowhere")), "/s", "link"),
        (lambda file: file.update(kind=np.dtype("<f4")), "/kind", "dataset"),
        (lambda file: file.create_dataset("d", data=[file.ref], dtype=h5py.ref_dtype), "/d", "reference"),
        (lambda file: file.create_dataset("d", (1,), h5py.regionref_dtype), "/d", "reference"),
        (lambda file: file.create_dataset("d", data="text"), "/d", "reference"),
        (lambda file: file.create_dataset("d", (2,), h5py.vlen_dtype(np.int8)), "/d", "reference"),
        (
            lambda file: file.create_dataset("d", (2,), [("a", "<f4"), ("b", h5py.string_dtype())]),
            "/d",
            "reference",
        ),
        (lambda file: file.update(d=h5py.Empty("<f4")), "/d", "shape"),
        (lambda file: file.create_dataset("d", data=VALUES, compression="lzf"), "/d", "[32000]"),
        (
            lambda file: file.create_dataset("d", data=VALUES, compression=hdf5plugin.Blosc()),
            "/d",
            "[32001]",
        ),
        (
            lambda file: file.create_dataset("d", data=VALUES.astype(np.int32), scaleoffset=0),
            "/d",
            f"[{h5py.h5z.FILTER_SCALEOFFSET}]",
        ),
        (
            lambda file: file.create_dataset("deep/d", (10**6, 10**6), chunks=(10**4, 10**4), compression="gzip"),
            "/deep/d",
            "10,000",
        ),
        (
            lambda file: file.create_dataset("d", (9, 9), chunks=(3, 3)).write_direct(VALUES[:9], None, np.s_[0]),
            "/d",
            "9",
        ),
        (
            lambda file: file.create_dataset("d", (10**11,), np.float32),
            "/d",
            "400,000,000,000",
        ),
    ],
)
def test_validate_unexpected_object_is_rejected_with_its_path(fill: Fill, item: str, problem: str) -> None:
    check_rejected(build(fill), item, problem)


def test_validate_more_bytes_than_compression_allows_is_rejected() -> None:
    def fill(file: h5py.File, stored: int = 64) -> None:
        dataset = file.create_dataset("d", (MAX_RATIO * 64,), np.uint8, chunks=(MAX_RATIO * 64,), compression="gzip")
        dataset.id.write_direct_chunk((0,), bytes(stored))

    check(build(fill))
    check_rejected(build(partial(fill, stored=63)), "/d", f"{MAX_RATIO * 64:,}")


def test_validate_uncompressed_chunk_shorter_than_declared_is_rejected() -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset("d", (100,), np.uint8, chunks=(100,)).id.write_direct_chunk((0,), bytes(99))

    check_rejected(build(fill), "/d", "99")


def test_validate_edited_shape_is_rejected() -> None:
    data = build(lambda file: file.create_dataset("d", data=np.zeros(4321, np.float64)))
    assert data.count(struct.pack("<Q", 4321)) == 2
    edited = data.replace(struct.pack("<Q", 4321), struct.pack("<Q", 10**13))
    with pytest.raises((ForeignFileError, OSError, KeyError)):
        check(edited)


def edit_heap(data: bytes, place: int, value: bytes) -> bytes:
    start = data.index(b"GCOL\x01") + place
    return data[:start] + value + data[start + len(value) :]


@pytest.mark.parametrize("index", [1, 2, 0])
@pytest.mark.parametrize("num_bytes", [0, 5000, 2**64 - 1, 2**64 - 16, 2**63])
def test_validate_heap_object_of_impossible_size_is_rejected(index: int, num_bytes: int) -> None:
    data = build(lambda file: file.attrs.update(text="of variable length"))
    edited = edit_heap(data, 16, struct.pack("<HHIQ", index, 1, 0, num_bytes))
    if index and not num_bytes:
        # An object of 0 bytes is valid, because its header occupies 16 bytes. Free space of size 0 is not valid.
        edited = edit_heap(edited, 32, bytes(16))
    check_rejected(edited, "/", f"{num_bytes:,}")


def test_validate_second_heap_with_an_object_of_size_0_is_rejected() -> None:
    data = build(lambda file: [file.attrs.create(f"text{n}", "long " * 700) for n in range(6)])
    assert data.count(b"GCOL\x01") > 1
    check(data)
    start = data.rindex(b"GCOL\x01")
    edited = data[: start + 16] + bytes(16) + data[start + 32 :]
    check_rejected(edited, "/", f"{start:,}")


@pytest.mark.parametrize("create", [h5py.h5d.create, h5py.h5a.create])
def test_validate_type_unknown_to_numpy_is_rejected(create: Callable[..., object]) -> None:
    data = build(lambda file: create(file.id, b"d", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((2,))))
    check_rejected(data, "/")


@pytest.mark.parametrize("sizeof_length", [2, 4])
def test_validate_heap_with_short_lengths_is_rejected(sizeof_length: int) -> None:
    data = build(lambda file: file.attrs.update(text="of variable length"), sizeof_length)
    padding = b"\xff" * (8 - sizeof_length)
    edited = edit_heap(edit_heap(data, 16, bytes(16)), 8 + sizeof_length, padding)
    check_rejected(edited, "/")


def test_validate_heap_signature_in_a_file_without_heaps_passes() -> None:
    def fill(file: h5py.File) -> None:
        looks = b"GCOL\x01\0\0\0" + struct.pack("<Q", 4096) + bytes(5000)
        file["d"] = np.frombuffer(looks, np.uint8)

    check(build(fill))
