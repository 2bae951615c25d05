"""HDF5 files through Python: the library never touches a live path, and equal content gives equal bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


def build_file(fill: Callable[[h5py.File], None]) -> bytes:
    """Builds an HDF5 1.10 file in memory.

    Args:
        fill: makes the file's content.

    Returns:
        The file's bytes. The root has no time stamps, nor have datasets that h5py makes.
    """
    buffer = io.BytesIO()
    with create_file(buffer) as file:
        fill(file)
    return buffer.getvalue()


def create_file(target: io.BytesIO | NewFile) -> h5py.File:
    """Create an HDF5 1.10 file in a Python file object."""
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    # From version 1.10 on, HDF5's own structures carry checksums.
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, target)
    return h5py.File(h5py.h5f.create(b"a file object", h5py.h5f.ACC_TRUNC, creation, access))


class NewFile(io.RawIOBase):
    """A file for HDF5 to write, whose errors are kept: HDF5 can crash where a write fails.

    From the first error on, what is written is held in memory; ask `check` after each step.
    """

    def __init__(self, path: Path) -> None:
        """Create a file.

        Raises:
            OSError: there is one, or it cannot be made.
        """
        super().__init__()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._position = self._end = 0
        self._error: OSError | None = None
        self._held: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the OSError of the first write that failed."""
        if self._error:
            raise self._error

    def write(self, data: ReadableBuffer) -> int:
        """Write at the position."""
        rest, position = memoryview(data).cast("B"), self._position
        try:
            while rest and not self._error:
                num_written = os.pwrite(self._descriptor, rest, position)
                rest, position = rest[num_written:], position + num_written
        except OSError as error:
            self._error = error
        if rest:
            self._held.append((position, bytes(rest)))
        num_bytes = len(memoryview(data).cast("B"))
        self._position += num_bytes
        self._end = max(self._end, self._position)
        return num_bytes

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer from the position on."""
        view = memoryview(buffer).cast("B")
        num_read = os.preadv(self._descriptor, [view], self._position)
        view[num_read:] = bytes(len(view) - num_read)
        for offset, data in self._held:
            start, end = max(offset, self._position), min(offset + len(data), self._position + len(view))
            if start < end:
                view[start - self._position : end - self._position] = data[start - offset : end - offset]
        self._position += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size."""
        self._end = self._position if size is None else size
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            self._error = self._error or error
        return self._end

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def read_rows(dataset: h5py.Dataset, rows: Sequence[int], out: NDArray[Any]) -> None:
    """Read rows, ascending, into an array; neighbours at once."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            dataset.read_direct(out, np.s_[rows[start] : rows[end - 1] + 1], np.s_[start:end])
            start = end


def write_texts(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """Writes texts as an attribute, a single one as a scalar.

    Their length is fixed: text of variable length lies in a heap, which has no checksum. (That of shards is, since
    their digest covers it.)
    """
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    kind = h5py.string_dtype("utf-8", max(1, *map(len, encoded)) if encoded else 1)
    file.attrs.create(name, np.array(encoded[0] if len(encoded) == 1 else encoded, kind), dtype=kind)


def read_texts(file: h5py.File, name: str) -> list[str]:
    """Reads texts that are an attribute, of fixed or of variable length."""
    values = np.ravel(file.attrs[name]).tolist()
    return [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value) for value in values]
