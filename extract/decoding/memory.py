"""Memory of picture files and decoded pictures: limits for all threads, and arrays that are used again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS_IN_MEMORY = 96_000_000
"""Limit on the decoded pixels of all threads together; a pixel takes 7 bytes, 4 in Pillow and 3 in the array."""
_MAX_BYTES_KEPT = 3 * MAX_PIXELS_IN_MEMORY // 2
"""Enough for pictures of 12 megapixels in four threads, or of 24 in two; larger pictures always get new memory."""


class Budget:
    """Limit on the pixels or bytes that all threads hold together; a picture above the limit is processed alone."""

    def __init__(self, limit: int) -> None:
        """Create a budget of `limit` pixels or bytes."""
        self._limit, self._used, self._changed = limit, 0, threading.Condition()

    @contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Wait until the limit leaves room for a picture, and count it until the `with` block ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + amount <= self._limit)
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()


class PixelMemory:
    """Arrays that are used again for later pictures; at most one for each thread that decodes.

    The system clears new memory page by page, which takes a third to two thirds of the time to decode 12 megapixels.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES_KEPT) -> None:
        """Create an empty memory; beyond `max_bytes`, arrays are not kept."""
        self._idle: list[NDArray[np.uint8]] = []
        self._max_bytes, self._num_bytes, self._lock = max_bytes, 0, threading.Lock()

    @contextmanager
    def lend(self, num_bytes: int) -> Iterator[NDArray[np.uint8]]:
        """Lend an array of at least `num_bytes` until the `with` block ends."""
        with self._lock:
            array = self._idle.pop() if self._idle else None
            if array is not None and array.size < num_bytes:
                self._num_bytes -= array.size
                array = None
            if array is None:
                self._num_bytes += num_bytes
        array = np.empty(num_bytes, np.uint8) if array is None else array
        try:
            yield array
        finally:
            with self._lock:
                if self._num_bytes <= self._max_bytes:
                    self._idle.append(array)
                else:
                    self._num_bytes -= array.size
