"""Size of a shard: the largest number of features and of bytes in one file."""

from __future__ import annotations

from math import prod

from features.schema import FEATURE_DTYPE, MAX_FEATURE_BYTES

MAX_ROWS_PER_SHARD = 1024
MAX_BYTES_PER_SHARD = MAX_FEATURE_BYTES
"""Largest size of the features in a shard before compression, so that a shard of any shape can be built in memory."""


def count_rows_per_shard(feature_shape: tuple[int, ...]) -> int:
    """Return the largest number of features in a shard."""
    return max(1, min(MAX_ROWS_PER_SHARD, MAX_BYTES_PER_SHARD // (prod(feature_shape) * FEATURE_DTYPE.itemsize)))
