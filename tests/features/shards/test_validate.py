"""HDF5 files from elsewhere: sound ones pass, and every way to lead out of a file or to declare too much is refused."""

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
import numpy as np
import pytest

from features.shards.compression import Compression, import_hdf5plugin, list_compression_options
from features.shards.hdf5 import build_file, write_texts
from features.shards.validate import MAX_RATIO, ForeignFileError, open_untrusted_hdf5, validate_untrusted_hdf5

Fill = Callable[[h5py.File], object]
VALUES = np.arange(4096, dtype=np.float32)
SECRET = b"the bytes of somebody's secret"


def build(fill: Fill, sizeof_length: int = 8) -> bytes:
    """A file of the oldest version, whose structures have no checksums and can be edited."""
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


def refuse(data: bytes, reason: str, max_declared: int | None = None) -> None:
    with pytest.raises(ForeignFileError) as caught:
        check(data, max_declared)
    assert reason in str(caught.value)


@contextmanager
def watch(path: Path) -> Iterator[Callable[[], bool]]:
    """Says whether anything opened or read a file, also in C."""
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


def fill_sound(file: h5py.File) -> None:
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
        fill_sound,
        link_twice,
        lambda file: None,
        lambda file: file.attrs.update(text="of variable length", texts=["more", "of it"]),
        lambda file: file.create_group("deep").create_dataset("d", data=VALUES).attrs.update(text="of variable length"),
        lambda file: file.create_dataset("d", data=VALUES, **list_compression_options(Compression.GZIP)),
        lambda file: file.create_dataset("d", data=VALUES, **list_compression_options(Compression.ZSTD)),
        lambda file: file.create_dataset("d", data=np.zeros(100_000, np.float16), compression="gzip"),
        lambda file: file.create_dataset("d", data=np.zeros(3, [("a", "<f4"), ("b", "S7")])),
        lambda file: file.create_dataset(b"not utf-8 \xff", data=VALUES),
    ],
)
def test_validate_untrusted_hdf5_of_a_sound_file_passes(fill: Fill) -> None:
    def fill_in(file: h5py.File) -> None:
        fill(file)

    check(build(fill))
    check(build_file(fill_in))


def test_validate_untrusted_hdf5_counts_what_is_linked_twice_once() -> None:
    data = build(link_twice)
    check(data, VALUES.nbytes)
    refuse(data, f"{VALUES.nbytes:,} bytes are declared, more than {VALUES.nbytes - 1:,}", VALUES.nbytes - 1)


def test_validate_untrusted_hdf5_adds_up_what_all_datasets_declare() -> None:
    data = build(lambda file: [file.create_dataset(f"deep/{n}", data=VALUES) for n in range(3)])
    check(data, 3 * VALUES.nbytes)
    refuse(data, "49,152 bytes are declared, more than 49,151", 3 * VALUES.nbytes - 1)


def test_validate_untrusted_hdf5_counts_whole_chunks_since_they_are_unpacked_whole() -> None:
    data = build(lambda file: file.create_dataset("d", data=np.zeros(5, np.uint8), chunks=(4,), compression="gzip"))
    refuse(data, "8 bytes are declared, more than 7", 7)


def test_validate_untrusted_hdf5_of_groups_linked_in_a_circle_ends() -> None:
    def fill(file: h5py.File) -> None:
        file["a/b/d"] = VALUES
        file["a/b/back"] = file["a"]
        file["a/b/root"] = file["/"]

    check(build(fill), VALUES.nbytes)


def test_open_untrusted_hdf5_gives_the_file_that_was_validated(tmp_path: Path) -> None:
    (tmp_path / "some.h5").write_bytes(build(fill_sound))
    with open_untrusted_hdf5(tmp_path / "some.h5") as (file, source):
        assert isinstance(file, h5py.File)
        assert source.identity.num_bytes == (tmp_path / "some.h5").stat().st_size


@pytest.mark.parametrize("place", ["", "deep/er/"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("storage", "/d lies in another file"),
        ("virtual", "/d lies in another file"),
        ("link", "/d is a link to somewhere else"),
    ],
)
def test_validate_untrusted_hdf5_that_leads_to_another_file_is_refused_and_never_opens_it(
    tmp_path: Path, kind: str, reason: str, place: str
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
        refuse(data, reason)
        with h5py.File(tmp_path / "some.h5") as file:
            with pytest.raises(ForeignFileError, match=reason):
                validate_untrusted_hdf5(file, data)
            assert not was_read()
            assert file[f"{place}d"][:].tobytes() == SECRET
        assert was_read()


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (lambda file: file.update(d=VALUES, s=h5py.SoftLink("/d")), "//s is a link to somewhere else"),
        (lambda file: file.update(s=h5py.SoftLink("/nowhere")), "//s is a link to somewhere else"),
        (lambda file: file.update(kind=np.dtype("<f4")), "/kind is neither a group nor a dataset"),
        (lambda file: file.create_dataset("d", data=[file.ref], dtype=h5py.ref_dtype), "/d holds values that point"),
        (lambda file: file.create_dataset("d", (1,), h5py.regionref_dtype), "/d holds values that point elsewhere"),
        (lambda file: file.create_dataset("d", data="text"), "/d holds values that point elsewhere"),
        (lambda file: file.create_dataset("d", (2,), h5py.vlen_dtype(np.int8)), "/d holds values that point elsewhere"),
        (
            lambda file: file.create_dataset("d", (2,), [("a", "<f4"), ("b", h5py.string_dtype())]),
            "/d holds values that point elsewhere",
        ),
        (lambda file: file.update(d=h5py.Empty("<f4")), "/d has no shape"),
        (lambda file: file.create_dataset("d", data=VALUES, compression="lzf"), "/d needs the HDF5 filters [32000]"),
        (
            lambda file: file.create_dataset("d", data=VALUES, compression=import_hdf5plugin().Blosc()),
            "/d needs the HDF5 filters [32001]",
        ),
        (
            lambda file: file.create_dataset("d", data=VALUES.astype(np.int32), scaleoffset=0),
            f"/d needs the HDF5 filters [{h5py.h5z.FILTER_SCALEOFFSET}]",
        ),
        (
            lambda file: file.create_dataset("deep/d", (10**6, 10**6), chunks=(10**4, 10**4), compression="gzip"),
            "/deep/d declares 10,000 chunks, and holds others",
        ),
        (
            lambda file: file.create_dataset("d", (9, 9), chunks=(3, 3)).write_direct(VALUES[:9], None, np.s_[0]),
            "/d declares 9 chunks, and holds others",
        ),
        (
            lambda file: file.create_dataset("d", (10**11,), np.float32),
            "/d declares 400,000,000,000 bytes, and 0 are stored",
        ),
    ],
)
def test_validate_untrusted_hdf5_of_what_no_store_has_is_refused_by_name(fill: Fill, reason: str) -> None:
    refuse(build(fill), reason)


def test_validate_untrusted_hdf5_of_more_than_compression_reaches_is_refused() -> None:
    def fill(file: h5py.File, stored: int = 64) -> None:
        dataset = file.create_dataset("d", (MAX_RATIO * 64,), np.uint8, chunks=(MAX_RATIO * 64,), compression="gzip")
        dataset.id.write_direct_chunk((0,), bytes(stored))

    check(build(fill))
    refuse(build(partial(fill, stored=63)), f"/d declares {MAX_RATIO * 64:,} bytes, and 63 are stored")


def test_validate_untrusted_hdf5_of_uncompressed_chunks_shorter_than_declared_is_refused() -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset("d", (100,), np.uint8, chunks=(100,)).id.write_direct_chunk((0,), bytes(99))

    refuse(build(fill), "/d declares 100 bytes, and 99 are stored")


def test_validate_untrusted_hdf5_of_a_shape_that_was_edited_is_refused() -> None:
    data = build(lambda file: file.create_dataset("d", data=np.zeros(4321, np.float64)))
    assert data.count(struct.pack("<Q", 4321)) == 2
    edited = data.replace(struct.pack("<Q", 4321), struct.pack("<Q", 10**13))
    with pytest.raises((ForeignFileError, OSError, KeyError), match=r"10,000|declares|invalid dataset size|unable to"):
        check(edited)


def edit_heap(data: bytes, place: int, value: bytes) -> bytes:
    start = data.index(b"GCOL\x01") + place
    return data[:start] + value + data[start + len(value) :]


@pytest.mark.parametrize("index", [1, 2, 0])
@pytest.mark.parametrize("num_bytes", [0, 5000, 2**64 - 1, 2**64 - 16, 2**63])
def test_validate_untrusted_hdf5_of_a_heap_that_never_ends_is_refused(index: int, num_bytes: int) -> None:
    data = build(lambda file: file.attrs.update(text="of variable length"))
    edited = edit_heap(data, 16, struct.pack("<HHIQ", index, 1, 0, num_bytes))
    if index and not num_bytes:
        # An object without bytes still takes its header's room, so it is the free space behind it that has no size.
        edited = edit_heap(edited, 32, bytes(16))
    refuse(edited, f"holds an object of {num_bytes:,} bytes")


def test_validate_untrusted_hdf5_of_a_second_heap_that_never_ends_is_refused() -> None:
    data = build(lambda file: [file.attrs.create(f"text{n}", "long " * 700) for n in range(6)])
    assert data.count(b"GCOL\x01") > 1
    check(data)
    start = data.rindex(b"GCOL\x01")
    edited = data[: start + 16] + bytes(16) + data[start + 32 :]
    refuse(edited, f"the heap at byte {start:,} holds an object of 0 bytes")


@pytest.mark.parametrize("create", [h5py.h5d.create, h5py.h5a.create])
def test_validate_untrusted_hdf5_of_a_type_that_numpy_lacks_is_refused(create: Callable[..., object]) -> None:
    data = build(lambda file: create(file.id, b"d", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((2,))))
    refuse(data, "")


@pytest.mark.parametrize("sizeof_length", [2, 4])
def test_validate_untrusted_hdf5_of_a_heap_that_never_ends_with_short_lengths_is_refused(sizeof_length: int) -> None:
    data = build(lambda file: file.attrs.update(text="of variable length"), sizeof_length)
    padding = b"\xff" * (8 - sizeof_length)
    edited = edit_heap(edit_heap(data, 16, bytes(16)), 8 + sizeof_length, padding)
    refuse(edited, "")


def test_validate_untrusted_hdf5_of_text_that_looks_like_a_heap_passes_where_there_are_no_heaps() -> None:
    def fill(file: h5py.File) -> None:
        looks = b"GCOL\x01\0\0\0" + struct.pack("<Q", 4096) + bytes(5000)
        file["d"] = np.frombuffer(looks, np.uint8)

    check(build(fill))
