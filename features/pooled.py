"""Average pooling of a store: each feature is replaced by its mean over height and width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from base.errors import UsageError
from features.schema import FEATURE_DTYPE, Features
from features.shards.size import count_rows_per_shard
from features.store import FeatureStore

POOLED = "avg of stored features"
"""Pool field of the fingerprint.

It differs from `avg`, because the mean of rounded features is not the rounded mean that `extract --pool avg` stores.
"""


def pool_store(store: FeatureStore) -> FeatureStore:
    """Return a store with the same examples, whose features are averages of shape (channels,) and dtype float16.

    Raises:
        UsageError: the stored features have no height and width.
    """
    shape, read_rows = store.feature_shape, store.contents.read_rows
    if len(shape) != 3:
        raise UsageError("--pool avg", "features with height and width", f"{shape} in {store.path}", "Omit the option")

    def read_means(shard: int, rows: Sequence[int], out: Features) -> None:
        # A block has at most as many rows as a shard, which bounds the memory for a large packed store.
        step = count_rows_per_shard(shape)
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            features = np.empty((len(block), *shape), FEATURE_DTYPE)
            read_rows(shard, block, features)
            out[start : start + len(block)] = features.mean(axis=(1, 2), dtype=np.float32)

    contents = replace(
        store.contents,
        fingerprint=replace(store.fingerprint, pool=POOLED),
        origin=replace(store.origin, feature_shape=shape[-1:]),
        read_rows=read_means,
    )
    return FeatureStore.derive(store.path, contents, pool_store, (store,))
