"""Validation of foreign HDF5 files, before anything in them is used."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path

import h5py

from base.regular import RegularFile
from features.shards.compression import ZSTD_FILTER, list_filters

KNOWN_FILTERS = frozenset([h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, ZSTD_FILTER])
"""HDF5 loads any other from a shared library, wherever its plugin path points."""
MAX_RATIO = 4096
"""Of declared to stored bytes: gzip reaches 1,030 on zeros, zstd 3,700 on a feature of zeros."""
_HEAP_SIGNATURE = b"GCOL\x01"


class ForeignFileError(ValueError):
    """Invalid foreign file; the message is the reason."""


@contextmanager
def open_untrusted_hdf5(path: Path, max_declared: int | None = None) -> Iterator[tuple[h5py.File, RegularFile]]:
    """Open an HDF5 file, or a link to one, once and validate it; what was validated is what is read.

    Raises:
        OSError: it cannot be opened, is no regular file or no HDF5 file.
        ForeignFileError: it is not valid.
    """
    with RegularFile(path, follow=True) as source, h5py.File(source, "r") as file:
        with mmap(source.fileno(), 0, access=ACCESS_READ) as data:
            validate_untrusted_hdf5(file, data, max_declared)
        yield file, source


def validate_untrusted_hdf5(file: h5py.File, data: bytes | mmap, max_declared: int | None = None) -> None:
    """Check that an HDF5 file is self-contained, and declares no more than it holds.

    Refused are links other than hard ones, data in other files (external storage, virtual datasets), filters that
    this project does not write, values that point elsewhere (references, variable length), and datasets that declare
    more than what is stored of them can be. Source: HDF5's file format specification; docs/security.md has the reasons.

    Args:
        file: the file, opened for reading.
        data: its bytes.
        max_declared: limit for all datasets together, in bytes.

    Raises:
        ForeignFileError: it is not valid; names the object.
    """
    # Others are hardly ever used, and the heap check reads sizes of 8 bytes.
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise ForeignFileError("addresses or lengths of other than 8 bytes")
    try:
        declared = _check_objects(file, data)
    except (TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ForeignFileError(f"something that h5py does not know: {error}") from error
    if max_declared is not None and declared > max_declared:
        raise ForeignFileError(f"{declared:,} bytes are declared, more than {max_declared:,}")


def _check_objects(file: h5py.File, data: bytes | mmap) -> int:
    """Check every object, and return how many bytes they declare together."""
    declared, has_heaps = 0, False
    pending: list[h5py.Group | h5py.Dataset] = [file["/"]]
    seen = set()
    while pending:
        item = pending.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        # The value of such an attribute lies in a heap, as text of variable length does.
        has_heaps = has_heaps or any(item.attrs.get_id(name).dtype.hasobject for name in item.attrs)
        if isinstance(item, h5py.Dataset):
            declared += _check_dataset(item, len(data))
            continue
        if not isinstance(item, h5py.Group):
            raise ForeignFileError(f"{item.name} is neither a group nor a dataset")
        for name in item:
            # h5py gives a name that is not UTF-8 as bytes.
            raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
            if item.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise ForeignFileError(f"{item.name}/{name} is a link to somewhere else")
            pending.append(item[name])
    if has_heaps:
        _check_heaps(data)
    return declared


def _check_heaps(data: bytes | mmap) -> None:
    """Check that each global heap's objects lead to its end: HDF5 1.14 never ends where one has no size.

    Source: HDF5's file format specification, III.E, "Disk Format: Level 1E - Global Heap". Heaps carry no checksum.
    """
    position = data.find(_HEAP_SIGNATURE)
    while position >= 0:
        (size,) = struct.unpack_from("<Q", data, position + 8) if position + 16 <= len(data) else (0,)
        place, end = position + 16, position + size
        # HDF5 refuses a heap that is smaller than 4,096 bytes, or goes beyond the file's end.
        while size >= 4096 and end <= len(data) and place + 16 <= end:
            index, num_bytes = struct.unpack_from("<H6xQ", data, place)
            taken = num_bytes if index == 0 else 16 + -(-num_bytes // 8) * 8
            if taken < 16 or place + taken > end:
                raise ForeignFileError(f"the heap at byte {position:,} holds an object of {num_bytes:,} bytes")
            place += taken
        position = data.find(_HEAP_SIGNATURE, position + 1)


def _check_dataset(dataset: h5py.Dataset, num_bytes: int) -> int:
    """Check one dataset, and return how many bytes it declares."""
    properties = dataset.id.get_create_plist()
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise ForeignFileError(f"{dataset.name} lies in another file")
    filters = list_filters(dataset)
    if not filters <= KNOWN_FILTERS:
        raise ForeignFileError(f"{dataset.name} needs the HDF5 filters {sorted(filters - KNOWN_FILTERS)}")
    if dataset.dtype.hasobject:
        raise ForeignFileError(f"{dataset.name} holds values that point elsewhere")
    if dataset.shape is None:
        raise ForeignFileError(f"{dataset.name} has no shape")
    declared: int = prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if dataset.chunks is not None and declared:
        num_chunks = prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        if dataset.id.get_num_chunks() != num_chunks:
            raise ForeignFileError(f"{dataset.name} declares {num_chunks:,} chunks, and holds others")
        declared = num_chunks * prod(dataset.chunks) * dataset.dtype.itemsize
    ratio = MAX_RATIO if filters & {h5py.h5z.FILTER_DEFLATE, ZSTD_FILTER} else 1
    if stored > num_bytes or declared > stored * ratio:
        raise ForeignFileError(f"{dataset.name} declares {declared:,} bytes, and {stored:,} are stored")
    return declared
