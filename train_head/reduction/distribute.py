"""Products of blocks of features by the workers of Ray. This process reads the blocks, and adds the products in order.

The order of the sums is that of a computation in one process, so the result has the same bits. The workers do not read
the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from base.cluster import LOCAL, open_ray
from base.errors import HeadstartError
from features.schema import Features
from train_head.data.batches import Array
from train_head.reduction.cache import describe_blas
from train_head.reduction.matrix import Block, Products, add_transposed, multiply_block

OPTION = "--distribute"
_MAX_WAITING = 16
"""Largest number of blocks that the workers have at a time, which bounds the memory of Ray's objects."""


@contextmanager
def open_products(address: str, workers: ThreadPoolExecutor) -> Iterator[Products]:
    """Yield the products of this process, or of the workers of Ray.

    Args:
        address: `local`, or an address of `open_ray`.
        workers: the threads of `open_workers`, for products of this process.
    """
    if address == LOCAL:
        yield Products(workers)
        return
    with open_ray(OPTION, address) as ray:
        yield RayProducts(ray, address, workers)


class RayProducts(Products):
    """Products by the workers of Ray, one core for each block. A block whose worker is lost is computed again."""

    def __init__(self, ray: Any, address: str, workers: ThreadPoolExecutor) -> None:
        """Create the products; `ray` is the module, connected to the cluster of the address."""
        super().__init__(workers)
        self._ray, self._address = ray, address
        num_cores = int(ray.cluster_resources().get("CPU", 1))
        self._num_waiting = min(num_cores + 1, _MAX_WAITING)

    def add_squares(self, blocks: Iterable[Block], factor: Array, total: Array) -> Iterator[int]:
        """Add Bᵀ B F to `total` for each block; see `Products.add_squares`."""
        for rows, square in self._compute(compute_square, blocks, factor):
            total += square
            yield rows.stop - rows.start

    def multiply(self, blocks: Iterable[Block], factor: Array) -> Iterator[tuple[slice, Array]]:
        """Yield the row numbers of each block and B F; see `Products.multiply`."""
        yield from self._compute(compute_product, blocks, factor)

    def _compute(self, function: Any, blocks: Iterable[Block], factor: Array) -> Iterator[tuple[slice, Array]]:
        """Yield the result of a function for each block, in order."""
        task, shared = self._ray.remote(num_cpus=1)(function), self._ray.put(factor)
        waiting: deque[tuple[slice, Any]] = deque()
        for block in blocks:
            waiting.append((block.rows, task.remote(block.features, shared)))
            if len(waiting) >= self._num_waiting:
                yield self._take(*waiting.popleft())
        while waiting:
            yield self._take(*waiting.popleft())

    def _take(self, rows: slice, reference: Any) -> tuple[slice, Array]:
        """Wait for a result; raise HeadstartError if the worker failed, or computes with other rounding."""
        where = f"{OPTION} {self._address}"
        try:
            computed_by, result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            got = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
            advice = "Check the memory and the packages of the workers, or leave the option out"
            raise HeadstartError(where, "workers that compute the reduction", got, advice) from error
        if computed_by != describe_blas():
            advice = "Use workers with this NumPy on this kind of processor, or leave the option out"
            raise HeadstartError(where, f"workers with {describe_blas()}", computed_by, advice)
        return rows, result


def compute_square(features: Features, factor: Array) -> tuple[str, Array]:
    """Compute Bᵀ B F, (columns, k), of a block B (b, columns), with the description of the library that computed it."""
    block = Block(slice(0, len(features)), features)
    square = np.zeros_like(factor)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as workers:
        add_transposed(block, multiply_block(block, factor, workers), square, workers)
    return describe_blas(), square


def compute_product(features: Features, factor: Array) -> tuple[str, Array]:
    """Compute B F, (b, k), of a block B (b, columns), with the description of the library that computed it."""
    block = Block(slice(0, len(features)), features)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as workers:
        return describe_blas(), multiply_block(block, factor, workers)
