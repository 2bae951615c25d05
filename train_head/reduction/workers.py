"""Sums over fixed pieces in a fixed order: the same bits for any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

MAX_THREADS = 8
"""Each holds a panel and its product, so that memory stays bounded on machines with many cores."""

Piece = TypeVar("Piece")


class Workers:
    """Threads that compute pieces of a result."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        """Take the threads."""
        self._pool = pool

    def run(self, compute: Callable[[Piece], object], pieces: Iterable[Piece]) -> None:
        """Compute pieces that do not depend on each other."""
        for _ in self._pool.map(compute, pieces):
            pass

    def add(
        self, compute: Callable[[Piece], NDArray[Any]], pieces: Iterable[Piece], total: NDArray[Any]
    ) -> NDArray[Any]:
        """Add what is computed of each piece to a total, in the order of the pieces, and return it."""
        for part in self._pool.map(compute, pieces):
            total += part
        return total


@contextmanager
def open_workers() -> Iterator[Workers]:
    """Start threads, and limit BLAS to one thread for each of its calls while they run.

    How BLAS shares a product among threads decides the order of its sums, so the sharing is done here, by pieces
    whose sizes are constants.
    """
    num_threads = min(os.cpu_count() or 1, MAX_THREADS)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_threads, "pieces") as pool:
        yield Workers(pool)
