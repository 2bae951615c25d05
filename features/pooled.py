"""A store seen through its means: each feature's average over height and width in its place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from base.errors import UsageError
from features.schema import FEATURE_DTYPE, Features, count_rows_per_shard
from features.store import FeatureStore

POOLED = "avg of stored features"
"""In the fingerprint: a mean of rounded numbers is not quite the rounded mean that `extract --pool avg` stores."""


def pool_store(store: FeatureStore) -> FeatureStore:
    """Returns the same examples with one number for each channel.

    Args:
        store: with features of (height, width, channels).

    Returns:
        A store that reads the other one, and has features of (channels,) float16.

    Raises:
        UsageError: its features are means already.
    """
    if len(store.feature_shape) != 3:
        raise UsageError(
            "--pool avg", "features with height and width", f"{store.feature_shape} in {store.path}", "Leave it out"
        )
    pooled = copy.copy(store)
    pooled.contents = replace(
        store.contents,
        fingerprint=replace(store.fingerprint, pool=POOLED),
        origin=replace(store.origin, feature_shape=store.feature_shape[-1:]),
        read_rows=_PooledRows(store),
    )
    return pooled


class _PooledRows:
    def __init__(self, store: FeatureStore) -> None:
        self._shape, self._read_rows = store.feature_shape, store.contents.read_rows

    def __call__(self, shard: int, rows: Sequence[int], out: Features) -> None:
        # A shard is read at once, as it is checked at once; a packed store may be larger.
        step = count_rows_per_shard(self._shape)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            features = np.empty((len(some), *self._shape), FEATURE_DTYPE)
            self._read_rows(shard, some, features)
            out[start : start + len(some)] = features.mean(axis=(1, 2), dtype=np.float32)
