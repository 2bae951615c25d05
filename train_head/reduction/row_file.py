"""Matrices with a row for each picture: arrays in memory, or files whose rows are read when they are needed."""

from __future__ import annotations

import hashlib
import os
import weakref
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from base import system
from base.errors import HeadstartError
from base.files import PARTIAL_PREFIX
from train_head.data.batches import Array, Indices
from train_head.data.blocks import Blocks, BlockShape, open_unnamed, write_at

HELD_BYTES = 256 * 2**20
"""Largest matrix that is an array in memory."""
_HEADER_BYTES = 128
"""Size of the header of a .npy file with a matrix, before the numbers."""
_READ_BYTES = 2**24
_DENSE = 4
"""Largest number of rows in a range, for each requested row, that are read to get rows of the range."""


class RowFile:
    """Matrix (rows, columns) of float32 in a .npy file, read and written with the slices of an array."""

    def __init__(self, file: Any, shape: tuple[int, int], partial: Path | None = None) -> None:
        """Wrap an open file.

        Args:
            file: the unbuffered file; its numbers start after the header. It is closed with this object.
            shape: shape of the matrix.
            partial: path of the file, if it has a name until `publish` gives it another; removed with this object.
        """
        self._file, self.shape, self._partial = file, shape, partial
        self._row_bytes = shape[1] * np.dtype(np.float32).itemsize
        weakref.finalize(self, file.close)
        self._remove = weakref.finalize(self, partial.unlink, missing_ok=True) if partial else None

    @property
    def num_bytes(self) -> int:
        """Size of the file in bytes."""
        return _HEADER_BYTES + self._row_bytes * len(self)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | Indices) -> Array:
        """Read rows, given as a slice with step 1 or as their numbers; numbers in ascending order are read fastest."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._read(start, max(0, stop - start))
        if not len(rows):
            return self._read(0, 0)
        first, last = int(rows.min()), int(rows.max())
        if last - first < _DENSE * len(rows):
            return self._read(first, last - first + 1)[rows - first]
        return np.concatenate([self._read(row, 1) for row in rows.tolist()])

    def __setitem__(self, rows: slice, values: Array) -> None:
        """Write consecutive rows; raise HeadstartError if the disk is full."""
        data = np.ascontiguousarray(values, np.float32).data.cast("B")
        write_at(self._file, data, _HEADER_BYTES + (rows.start or 0) * self._row_bytes)

    def sort(self, rows: Indices, block_rows: int, folder: Path) -> Blocks:
        """Copy rows, in any order and any number of times, into blocks in a temporary file; the matrix is read once."""
        blocks = Blocks(BlockShape(len(rows), block_rows, self.shape[1:], np.dtype(np.float32)), folder)
        order = np.argsort(rows, kind="stable")
        step = max(1, _READ_BYTES // self._row_bytes)
        starts = range(0, len(self), step)
        for start, positions in zip(starts, np.split(order, np.searchsorted(rows[order], starts[1:])), strict=True):
            if len(positions):
                blocks.add(positions, self[start : start + step][rows[positions] - start])
        blocks.flush()
        return blocks

    def publish(self, stem: str) -> None:
        """Complete the file, and rename it to `STEM-SHA256.npy` in its folder; do nothing if it has no name."""
        if not self._partial:
            return
        self._file.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        system.sync(self._file.fileno())
        target = self._partial.with_name(f"{stem}-{hash_open_file(self._file)}.npy")
        self._file = system.rename_open(self._file, self._partial, target)
        weakref.finalize(self, self._file.close)
        self._partial = None
        if self._remove:
            self._remove.detach()

    @classmethod
    def open(cls, file: Any) -> RowFile:
        """Open the matrix in an open .npy file that `publish` completed; raise ValueError for another file."""
        file.seek(0)
        version = np.lib.format.read_magic(file)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if version != (1, 0) or len(shape) != 2 or is_fortran or dtype != np.float32 or file.tell() != _HEADER_BYTES:
            raise ValueError("a file without a matrix of float32")
        found = cls(file, shape)
        if os.fstat(file.fileno()).st_size != found.num_bytes:
            raise ValueError("a file of another size")
        return found

    def _read(self, start: int, num_rows: int) -> Array:
        found = np.empty((num_rows, self.shape[1]), np.float32)
        data, offset = found.data.cast("B"), _HEADER_BYTES + start * self._row_bytes
        while data:
            num_read = system.read_into(self._file.fileno(), data, offset)
            if not num_read:
                raise HeadstartError("the reduced features", f"{len(self):,} rows", "fewer", "Run the command again")
            data, offset = data[num_read:], offset + num_read
        return found


Matrix = Array | RowFile
"""Matrix that is read with slices or row numbers."""


def create_matrix(shape: tuple[int, int], folder: Path, stem: str = "") -> Matrix:
    """Create a matrix without values: an array up to `HELD_BYTES`, else a file.

    Args:
        shape: shape of the matrix.
        folder: folder of the file, which is created if needed.
        stem: name with which the file can be published; "" for a temporary file.
    """
    if 4 * shape[0] * shape[1] <= HELD_BYTES:
        return np.empty(shape, np.float32)
    if stem:
        partial = folder / f"{PARTIAL_PREFIX}{stem}-{os.getpid()}"
        # Without permission, for example in a store that is shared for reading, the file is a temporary one.
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            opened = system.open_file(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            return RowFile(FileIO(opened, "r+"), shape, partial)
    return RowFile(open_unnamed(folder), shape)


def hash_open_file(file: Any) -> str:
    """Return the SHA-256 of an open, unbuffered file, in hexadecimal digits."""
    digest, offset = hashlib.sha256(), 0
    while data := system.read_at(file.fileno(), _READ_BYTES, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()
