"""Write HDF5 files through Python file objects, so that HDF5 never opens a path of a store for writing."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import h5py
import numpy as np

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


def build_file(fill: Callable[[h5py.File], None]) -> bytes:
    """Build an HDF5 1.10 file in memory, without timestamps: equal content gives equal bytes."""
    buffer = io.BytesIO()
    with create_file(buffer) as file:
        fill(file)
    return buffer.getvalue()


def create_file(target: io.BytesIO | ErrorRecordingFile) -> h5py.File:
    """Create an HDF5 1.10 file in a Python file object."""
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    # The structures of format 1.10 have checksums.
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, target)
    return h5py.File(h5py.h5f.create(b"a file object", h5py.h5f.ACC_TRUNC, creation, access))


class ErrorRecordingFile(io.FileIO):
    """File object that records the first write error and ignores later writes; HDF5 can crash if a write fails."""

    def __init__(self, descriptor: int) -> None:
        """Wrap the descriptor of an open, empty file; closing this object does not close it."""
        super().__init__(descriptor, "r+b", closefd=False)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the recorded OSError, if any."""
        if self._error:
            raise self._error

    def write(self, data: ReadableBuffer, /) -> int:
        """Write at the current position; always report success."""
        rest = memoryview(data).cast("B")
        num_bytes = len(rest)
        try:
            while rest and not self._error:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._error = error
        self.seek(len(rest), os.SEEK_CUR)
        return num_bytes

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer from the current position, with zeros beyond the end of the file."""
        view = memoryview(buffer).cast("B")
        num_read = super().readinto(view) or 0
        view[num_read:] = bytes(len(view) - num_read)
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size of the file; always report success."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0


def write_texts(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """Write texts as an attribute of fixed-length strings, a single text as a scalar.

    Text of variable length would be stored in a heap, which has no checksum.
    """
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    kind = h5py.string_dtype("utf-8", max(1, *map(len, encoded)) if encoded else 1)
    file.attrs.create(name, np.array(encoded[0] if len(encoded) == 1 else encoded, kind), dtype=kind)


def read_texts(file: h5py.File, name: str) -> list[str]:
    """Read an attribute of one or several texts, of fixed or variable length."""
    values = np.ravel(file.attrs[name]).tolist()
    return [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value) for value in values]
