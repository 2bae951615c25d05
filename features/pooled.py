"""A store seen through its means: the average over height and width in the place of each feature."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from base.errors import UsageError
from features.schema import FEATURE_DTYPE, Features, count_rows_per_shard
from features.store import FeatureStore

POOLED = "avg of stored features"
"""Pool of the fingerprint: a mean of rounded numbers differs from the rounded mean that `extract --pool avg` stores."""


def pool_store(store: FeatureStore) -> FeatureStore:
    """Return the same examples with features of (channels,) float16, the means of those of the store.

    Raises:
        UsageError: its features are means already.
    """
    shape, read_rows = store.feature_shape, store.contents.read_rows
    if len(shape) != 3:
        raise UsageError("--pool avg", "features with height and width", f"{shape} in {store.path}", "Leave it out")

    def read_means(shard: int, rows: Sequence[int], out: Features) -> None:
        # A shard is read at once, as it is checked at once; a packed store may be larger.
        step = count_rows_per_shard(shape)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            features = np.empty((len(some), *shape), FEATURE_DTYPE)
            read_rows(shard, some, features)
            out[start : start + len(some)] = features.mean(axis=(1, 2), dtype=np.float32)

    pooled = copy.copy(store)
    pooled.contents = replace(
        store.contents,
        fingerprint=replace(store.fingerprint, pool=POOLED),
        origin=replace(store.origin, feature_shape=shape[-1:]),
        read_rows=read_means,
    )
    return pooled
