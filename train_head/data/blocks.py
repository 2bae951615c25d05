"""Rows in another order than they are stored in, with sequential reading only: a sort by distribution, on disk.

Batches are random rows, and sums are in the order of content hashes, but shards have their rows in the order of the
extraction. Reading them directly would visit every shard for every block of rows, so that the number of visits would
grow with the square of the number of rows. Here the source is read once, in its own order, and each row is appended to
the block that will need it.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from base import system
from base.errors import HeadstartError
from base.terminal import format_bytes
from features.schema import FEATURE_DTYPE
from features.store import Example, FeatureStore

BUFFER_BYTES = 64 * 2**20
"""Size of the rows that are collected in memory before they are appended to their blocks."""
PART_BYTES = 32 * 2**20
"""Largest size of the rows that are read together: at that time there are two copies of them."""
_NUM_THREADS = 4

Rows = NDArray[Any]
Positions = NDArray[np.int64]


class BlockShape(NamedTuple):
    """Shape of a sequence of blocks of rows."""

    num_rows: int
    block_rows: int
    """Number of rows in each block except the last one."""
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Piece(NamedTuple):
    """Rows of one block that were appended together."""

    offset: int
    num_bytes: int
    places: NDArray[np.int32]
    """Position of each row in the block."""


class Blocks:
    """Rows in a temporary file, in blocks of consecutive rows. The file has no name, so that nothing of it remains."""

    def __init__(self, shape: BlockShape, folder: Path) -> None:
        """Create blocks without rows.

        Args:
            shape: shape of the blocks.
            folder: folder of the file; the system's folder for temporary files is used if it cannot be written.
        """
        self.shape, self._file = shape, open_unnamed(folder)
        weakref.finalize(self, self._file.close)
        self._pieces: list[list[_Piece]] = [[] for _ in range(0, shape.num_rows, shape.block_rows)]
        self._collected: dict[int, list[tuple[Positions, Rows]]] = {}
        self._collected_bytes = self._num_bytes = 0
        self._compresses: bool | None = None

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self._pieces)

    def add(self, positions: Positions, rows: Rows) -> None:
        """Add rows, (b, *row shape), at the given positions, (b,); each position is added once."""
        if self._compresses is None:
            # Only runs of zeros can be compressed, as in the shards.
            self._compresses = bool(2 * np.count_nonzero(rows) < rows.size)
        order = np.argsort(positions, kind="stable")
        positions, rows = positions[order], rows[order]
        numbers = positions // self.shape.block_rows
        ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        for start, end in zip([0, *ends], ends, strict=False):
            self._collected.setdefault(int(numbers[start]), []).append((positions[start:end], rows[start:end]))
        self._collected_bytes += rows.nbytes
        if self._collected_bytes >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Append the collected rows to their blocks; required before reading.

        Raises:
            HeadstartError: the disk is full.
        """
        numbers = sorted(self._collected)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            # Only a few encoded pieces are in memory at a time.
            for start in range(0, len(numbers), _NUM_THREADS):
                for number, places, data in pool.map(self._encode, numbers[start : start + _NUM_THREADS]):
                    self._append(number, places, data)
        self._collected_bytes = 0

    def read(self, number: int) -> Rows:
        """Read the rows of a block, (rows, *row shape)."""
        first = number * self.shape.block_rows
        num_rows = min(self.shape.block_rows, self.shape.num_rows - first)
        found = np.empty((num_rows, *self.shape.row_shape), self.shape.dtype)

        def read_piece(piece: _Piece) -> None:
            data = system.read_at(self._file.fileno(), piece.num_bytes, piece.offset)
            rows = np.frombuffer(zlib_ng.decompress(data) if self._compresses else data, self.shape.dtype)
            found[piece.places] = rows.reshape(len(piece.places), *self.shape.row_shape)

        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(read_piece, self._pieces[number]))
        return found

    def _append(self, number: int, places: NDArray[np.int32], data: bytes) -> None:
        write_at(self._file, data, self._num_bytes)
        self._pieces[number].append(_Piece(self._num_bytes, len(data), places))
        self._num_bytes += len(data)

    def _encode(self, number: int) -> tuple[int, NDArray[np.int32], bytes]:
        parts = self._collected.pop(number)
        places = np.concatenate([positions for positions, _ in parts]) - number * self.shape.block_rows
        rows = np.concatenate([rows for _, rows in parts])
        data = rows.tobytes()
        if self._compresses:
            compressor = zlib_ng.compressobj(1, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, 9, zlib_ng.Z_RLE)
            data = compressor.compress(data) + compressor.flush()
        return number, places.astype(np.int32), data


def sort_features(
    store: FeatureStore,
    examples: Sequence[Example],
    block_rows: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Blocks:
    """Copy features from the shards into blocks, in the order of the examples. Each shard is read once, in order.

    Args:
        store: the store of the features.
        examples: one for each row, in any order.
        block_rows: number of rows in a block.
        advance: called with the number of rows after each part of a shard.

    Raises:
        HeadstartError: the disk is full.
    """
    shape = BlockShape(len(examples), block_rows, store.feature_shape, FEATURE_DTYPE)
    blocks = Blocks(shape, store.derived_folder)
    for positions in _list_parts(examples, store.feature_shape):
        blocks.add(positions, store.read([examples[position] for position in positions.tolist()]))
        advance(len(positions))
    blocks.flush()
    return blocks


def _list_parts(examples: Sequence[Example], feature_shape: tuple[int, ...]) -> Iterator[Positions]:
    """Yield the positions of the examples of one shard after the other, in the order of its rows, in small parts."""
    shards = np.fromiter((example.shard for example in examples), np.int64, len(examples))
    rows = np.fromiter((example.row for example in examples), np.int64, len(examples))
    order = np.lexsort((rows, shards))
    step = max(1, PART_BYTES // (int(np.prod(feature_shape)) * FEATURE_DTYPE.itemsize))
    for of_shard in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
        for start in range(0, len(of_shard), step):
            yield of_shard[start : start + step]


def write_at(file: Any, data: bytes | memoryview, offset: int) -> None:
    """Write bytes at an offset of an open file; raise HeadstartError if the disk is full."""
    left = memoryview(data)
    try:
        while left:
            num_written = system.write_at(file.fileno(), left, offset)
            left, offset = left[num_written:], offset + num_written
    except OSError as error:
        expected = f"free space for {format_bytes(offset + len(left))} or more of temporary data"
        got, advice = (
            error.strerror or str(error),
            "Free some space for the store, or in TMPDIR if the store is read-only",
        )
        raise HeadstartError("the disk", expected, got, advice) from error


def open_unnamed(folder: Path) -> Any:
    """Open a temporary file without a name in a folder, or in the system's folder if that one cannot be written."""
    try:
        folder.mkdir(exist_ok=True)
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError:
        return tempfile.TemporaryFile(buffering=0)
