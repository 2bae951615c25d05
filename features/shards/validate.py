"""Validate untrusted HDF5 files before their data are used."""

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
"""Allowed HDF5 filters; HDF5 would load any other filter from a shared library on its plugin path."""
MAX_RATIO = 4096
"""Maximum ratio of declared to stored bytes. For zeros, gzip reaches 1,030 and zstd 3,700."""
_HEAP_SIGNATURE = b"GCOL\x01"


class ForeignFileError(ValueError):
    """Invalid untrusted file."""

    def __init__(self, item: str, problem: str) -> None:
        """Create the error from the path of the HDF5 object (`/` for the file) and a noun phrase for the problem."""
        super().__init__(item, problem)
        self.item, self.problem = item, problem

    def __str__(self) -> str:
        """Return the object and its problem."""
        return f"{self.item}: {self.problem}"


@contextmanager
def open_untrusted_hdf5(path: Path, max_declared: int | None = None) -> Iterator[tuple[h5py.File, RegularFile]]:
    """Validate and open an HDF5 file, or a link to one; the file is opened once.

    Args:
        path: the file.
        max_declared: maximum size of all datasets together, in bytes.

    Yields:
        The HDF5 file and the regular file that it is read from.

    Raises:
        OSError: the file cannot be opened, or is not an HDF5 file.
        ForeignFileError: the file is not valid.
    """
    with RegularFile(path, follow=True) as source, h5py.File(source, "r") as file:
        with mmap(source.fileno(), 0, access=ACCESS_READ) as data:
            validate_untrusted_hdf5(file, data, max_declared)
        yield file, source


def validate_untrusted_hdf5(file: h5py.File, data: bytes | mmap, max_declared: int | None = None) -> None:
    """Check that an HDF5 file is self-contained, and does not declare more data than it stores.

    The following are rejected: soft and external links, data in other files (external storage, virtual datasets),
    unknown filters, references and datasets of variable length, and datasets whose declared size is implausible for
    their stored size. Source: HDF5's file format specification; docs/explanation/security.md has the reasons.

    Args:
        file: the file, opened for reading.
        data: the bytes of the file.
        max_declared: maximum size of all datasets together, in bytes.

    Raises:
        ForeignFileError: the file is not valid; the message names the object.
    """
    # The check of heaps requires addresses and lengths of 8 bytes; other sizes are rare.
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise ForeignFileError("/", "addresses or lengths that do not have 8 bytes")
    try:
        declared = _check_objects(file, data)
    except (TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ForeignFileError("/", f"an object that h5py cannot read ({error})") from error
    if max_declared is not None and declared > max_declared:
        raise ForeignFileError("/", f"{declared:,} declared bytes, more than the limit of {max_declared:,}")


def _check_objects(file: h5py.File, data: bytes | mmap) -> int:
    """Check every object, and return the total number of declared bytes."""
    declared, has_heaps = 0, False
    pending: list[h5py.Group | h5py.Dataset] = [file["/"]]
    seen = set()
    while pending:
        item = pending.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        # Attributes of variable length store their values in a heap.
        has_heaps = has_heaps or any(item.attrs.get_id(name).dtype.hasobject for name in item.attrs)
        if isinstance(item, h5py.Dataset):
            declared += _check_dataset(item, len(data))
            continue
        if not isinstance(item, h5py.Group):
            raise ForeignFileError(item.name, "neither a group nor a dataset")
        for name in item:
            # h5py returns a name that is not UTF-8 as bytes.
            raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
            if item.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise ForeignFileError(f"{item.name.rstrip('/')}/{name}", "a soft or external link")
            pending.append(item[name])
    if has_heaps:
        _check_heaps(data)
    return declared


def _check_heaps(data: bytes | mmap) -> None:
    """Check the sizes of the objects in each global heap: HDF5 1.14 loops forever on an object of size 0.

    Each object must occupy at least 16 bytes and end within its heap.

    Heaps have no checksum. Source: HDF5's file format specification, III.E, "Disk Format: Level 1E - Global Heap".
    """
    position = data.find(_HEAP_SIGNATURE)
    while position >= 0:
        (size,) = struct.unpack_from("<Q", data, position + 8) if position + 16 <= len(data) else (0,)
        place, end = position + 16, position + size
        # HDF5 itself rejects a heap that is smaller than 4,096 bytes or extends beyond the end of the file.
        while size >= 4096 and end <= len(data) and place + 16 <= end:
            index, num_bytes = struct.unpack_from("<H6xQ", data, place)
            taken = num_bytes if index == 0 else 16 + -(-num_bytes // 8) * 8
            if taken < 16 or place + taken > end:
                raise ForeignFileError("/", f"an object of {num_bytes:,} bytes in the heap at byte {position:,}")
            place += taken
        position = data.find(_HEAP_SIGNATURE, position + 1)


def _check_dataset(dataset: h5py.Dataset, num_bytes: int) -> int:
    """Check a dataset, and return the number of declared bytes."""
    properties = dataset.id.get_create_plist()
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise ForeignFileError(dataset.name, "data in another file")
    filters = set(list_filters(dataset))
    if not filters <= KNOWN_FILTERS:
        raise ForeignFileError(dataset.name, f"unknown HDF5 filters {sorted(filters - KNOWN_FILTERS)}")
    if dataset.dtype.hasobject:
        raise ForeignFileError(dataset.name, "references or values of variable length")
    if dataset.shape is None:
        raise ForeignFileError(dataset.name, "no shape")
    declared: int = prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if dataset.chunks is not None and declared:
        num_chunks = prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        num_stored = dataset.id.get_num_chunks()
        if num_stored != num_chunks:
            raise ForeignFileError(dataset.name, f"{num_stored:,} stored chunks instead of {num_chunks:,}")
        declared = num_chunks * prod(dataset.chunks) * dataset.dtype.itemsize
    ratio = MAX_RATIO if filters & {h5py.h5z.FILTER_DEFLATE, ZSTD_FILTER} else 1
    if stored > num_bytes or declared > stored * ratio:
        raise ForeignFileError(dataset.name, f"{declared:,} declared bytes, {stored:,} stored bytes")
    return declared
