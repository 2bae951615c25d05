"""Stored features as a matrix X (rows, columns) that need not fit in memory, and products with it.

A product is computed piece by piece: blocks of rows, panels of columns. The pieces and the order in which they are
added are fixed, so that the bits of a result do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.schema import FEATURE_DTYPE, Features
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.data.blocks import Blocks, sort_features
from train_head.reduction.row_file import Matrix

BLOCK_BYTES = 64 * 2**20
"""Size of the blocks of rows that are read at a time, as float16."""
HELD_BYTES = 320 * 2**20
"""Largest matrix that stays in memory after the first read, as float16: 4,096 features of mixed7 at 150 px fit."""
SORTED_BYTES = 2**30
"""Largest matrix, as float16, whose blocks are read from the shards directly; the rows of a larger one are sorted."""
PANEL_COLUMNS = 2048
"""Columns of a block that are converted to float32 at a time."""
MAX_THREADS = 8
"""Largest number of threads. It limits the memory, because each thread holds a panel and its product."""

Piece = TypeVar("Piece")


@contextmanager
def open_workers() -> Iterator[ThreadPoolExecutor]:
    """Start a thread pool, and limit BLAS to one thread in each of its threads.

    Otherwise the order of BLAS's sums, and thus the bits of a result, would depend on the number of threads.
    """
    num_threads = min(os.cpu_count() or 1, MAX_THREADS)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_threads, "pieces") as pool:
        yield pool


def sum_in_order(
    workers: ThreadPoolExecutor,
    compute: Callable[[Piece], NDArray[Any]],
    pieces: Iterable[Piece],
    total: NDArray[Any],
) -> NDArray[Any]:
    """Compute the pieces in parallel, add them to `total` in place in the given order, and return it."""
    for part in workers.map(compute, pieces):
        total += part
    return total


class Block(NamedTuple):
    """Consecutive rows of the matrix."""

    rows: slice
    """Row numbers."""
    features: Features
    """(b, columns) float16."""

    def list_panels(self) -> list[slice]:
        """List the panels as slices of columns."""
        return [slice(start, start + PANEL_COLUMNS) for start in range(0, self.features.shape[1], PANEL_COLUMNS)]

    def widen(self, columns: slice) -> Array:
        """Return the columns of a panel as float32, (b, panel columns)."""
        return self.features[:, columns].astype(np.float32)


class FeatureMatrix:
    """Features of examples as a matrix X (rows, columns): a row for each example, a column for each input."""

    def __init__(self, store: FeatureStore, examples: Sequence[Example], workers: ThreadPoolExecutor) -> None:
        """Create the matrix; features are read when they are needed.

        Rows in the order of content hashes are scattered over all shards. Above `SORTED_BYTES`, they are copied to a
        temporary file in their order first, which reads each shard once.

        Args:
            store: the store of the features.
            examples: one for each row, in the order of the rows; any order is allowed.
            workers: the threads of `open_workers`.
        """
        self._store, self._examples, self.workers = store, examples, workers
        self.num_rows, self.num_columns = len(examples), int(np.prod(store.feature_shape))
        row_bytes = self.num_columns * FEATURE_DTYPE.itemsize
        step = self._block_rows = max(1, BLOCK_BYTES // row_bytes)
        self._slices = [slice(start, min(start + step, self.num_rows)) for start in range(0, self.num_rows, step)]
        self._held: dict[int, Block] | None = {} if row_bytes * self.num_rows <= HELD_BYTES else None
        self.is_large = row_bytes * self.num_rows > SORTED_BYTES
        """Whether the rows are sorted before they are read."""
        self._sorted: Blocks | None = None

    @property
    def num_blocks(self) -> int:
        """Number of blocks of rows."""
        return len(self._slices)

    def sort(self, advance: Callable[[int], None] = lambda _: None) -> Blocks:
        """Return the sorted rows of a large matrix, sorted by the first call, which reports numbers of rows."""
        if self._sorted is None:
            self._sorted = sort_features(self._store, self._examples, self._block_rows, advance)
        return self._sorted

    def read_block(self, number: int) -> Block:
        """Return a block, read from the store unless it is in memory."""
        if self._held is not None and number in self._held:
            return self._held[number]
        rows = self._slices[number]
        features = self.sort().read(number) if self.is_large else self._store.read(self._examples[rows])
        block = Block(rows, features.reshape(len(features), -1))
        if self._held is not None:
            self._held[number] = block
        return block

    def list_blocks(self) -> Iterator[Block]:
        """Yield the blocks in order; a thread reads the next block while one is in use."""
        with ThreadPoolExecutor(1, thread_name_prefix="blocks") as pool:
            coming = pool.submit(self.read_block, 0)
            for following in range(1, self.num_blocks + 1):
                block = coming.result()
                if following < self.num_blocks:
                    coming = pool.submit(self.read_block, following)
                yield block

    def compute_gram(self) -> NDArray[np.float64]:
        """Compute the Gram matrix X Xᵀ, (rows, rows) float64.

        Products of two float16 numbers are exact in float32. Sums are float32 within a panel and float64 across panels.
        """
        gram = np.empty((self.num_rows, self.num_rows))
        for number in range(self.num_blocks):
            first = self.read_block(number)
            for other in range(number, self.num_blocks):
                second = first if other == number else self.read_block(other)
                product = self._multiply_blocks(first, second)
                gram[first.rows, second.rows] = product
                gram[second.rows, first.rows] = product.T
        return gram

    def multiply_rows(self, other: FeatureMatrix) -> NDArray[np.float64]:
        """Compute X Yᵀ, (rows, other rows) float64, for another matrix Y; sums are those of `compute_gram`."""
        products = np.empty((self.num_rows, other.num_rows))
        for number in range(self.num_blocks):
            first = self.read_block(number)
            for second in other.list_blocks():
                products[first.rows, second.rows] = self._multiply_blocks(first, second)
        return products

    def multiply(self, factor: Array) -> Array:
        """Compute X F, (rows, k) float32, for F (columns, k)."""
        result = np.empty((self.num_rows, factor.shape[1]), np.float32)
        self.multiply_into(factor, result)
        return result

    def multiply_into(self, factor: Array, result: Matrix) -> None:
        """Write X F into a matrix, as `multiply` computes it."""
        for block in self.list_blocks():
            result[block.rows] = multiply_block(block, factor, self.workers)

    def multiply_transposed(self, factor: Array) -> Array:
        """Compute Xᵀ F, (columns, k) float32, for F (rows, k)."""
        result = np.zeros((self.num_columns, factor.shape[1]), np.float32)
        for block in self.list_blocks():
            add_transposed(block, factor[block.rows], result, self.workers)
        return result

    def _multiply_blocks(self, first: Block, second: Block) -> NDArray[np.float64]:
        def multiply_panels(columns: slice) -> Array:
            left = first.widen(columns)
            return left @ (left if first is second else second.widen(columns)).T

        product = np.zeros((len(first.features), len(second.features)))
        return sum_in_order(self.workers, multiply_panels, first.list_panels(), product)


def multiply_block(block: Block, factor: Array, workers: ThreadPoolExecutor) -> Array:
    """Compute B F, (b, k) float32, for a block B (b, columns) and F (columns, k)."""
    result = np.zeros((len(block.features), factor.shape[1]), np.float32)
    return sum_in_order(workers, lambda columns: block.widen(columns) @ factor[columns], block.list_panels(), result)


def add_transposed(block: Block, factor: Array, result: Array, workers: ThreadPoolExecutor) -> None:
    """Add Bᵀ F, (columns, k), to `result` in place, for a block B (b, columns) and F (b, k)."""

    def add_panel(columns: slice) -> None:
        result[columns] += block.widen(columns).T @ factor

    list(workers.map(add_panel, block.list_panels()))


class Products:
    """Products of many blocks with one factor, computed in this process."""

    def __init__(self, workers: ThreadPoolExecutor) -> None:
        """Create the products, with the threads of `open_workers`."""
        self._workers = workers

    def add_squares(self, blocks: Iterable[Block], factor: Array, total: Array) -> Iterator[int]:
        """Add Bᵀ B F, (columns, k), to `total` in place for each block B (b, columns) in order, and yield b."""
        for block in blocks:
            add_transposed(block, multiply_block(block, factor, self._workers), total, self._workers)
            yield len(block.features)

    def multiply(self, blocks: Iterable[Block], factor: Array) -> Iterator[tuple[slice, Array]]:
        """Yield the row numbers of each block B in order, and B F, (b, k)."""
        for block in blocks:
            yield block.rows, multiply_block(block, factor, self._workers)
