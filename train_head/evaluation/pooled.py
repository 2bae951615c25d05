"""Pooled features of different pictures, read once for all checks of a set of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from features.cuts import list_cuts
from features.pooled import pool_store
from features.schema import FeatureKey, Features
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.data.blocks import Blocks, sort_features

MAX_PICTURES = 100_000
"""Largest number of pictures whose features stay in memory, and that are compared with each other. The time of a
comparison grows with its square."""
_BLOCK_ROWS = 1024
_SORTED_ROWS = 16 * _BLOCK_ROWS
"""Rows of the blocks on disk, if there are more than `MAX_PICTURES`."""


class PooledFeatures:
    """Features of pictures, averaged over height and width."""

    def __init__(self, store: FeatureStore, examples: Sequence[Example]) -> None:
        """Choose the features. Of several stored cut layers it is the last, so that all cuts give the same results.

        Args:
            store: store with the features of the examples.
            examples: one example for each row.
        """
        chosen, self.examples = _choose_cut(store, examples)
        self.store = pool_store(chosen) if len(chosen.feature_shape) == 3 else chosen
        """Store of the pooled features; `examples` are examples of it."""

    @cached_property
    def values(self) -> Features:
        """(n, channels) float16."""
        return self.store.read(self.examples).reshape(len(self.examples), -1)

    def read_blocks(self) -> Iterator[Array]:
        """Yield the rows in order, as float32 (at most 1024, channels); up to `MAX_PICTURES` rows stay in memory."""
        is_held = len(self.examples) <= MAX_PICTURES
        parts = [self.values] if is_held else (self._sorted.read(number) for number in range(self._sorted.num_blocks))
        for part in parts:
            for start in range(0, len(part), _BLOCK_ROWS):
                block = part[start : start + _BLOCK_ROWS]
                yield block.reshape(len(block), -1).astype(np.float32)

    @cached_property
    def _sorted(self) -> Blocks:
        return sort_features(self.store, self.examples, _SORTED_ROWS)


def _choose_cut(store: FeatureStore, examples: Sequence[Example]) -> tuple[FeatureStore, Sequence[Example]]:
    """Choose the last of several stored cut layers if it has all examples."""
    folder = store.path if store.parts else store.path.parent
    cuts = list_cuts(folder)
    if not store.parts and store.path.name not in cuts[:-1]:
        return store, examples
    last = FeatureStore(folder / cuts[-1])
    found = last.find_stored(FeatureKey(example.content_hash, 0) for example in examples)
    return (last, found) if len(found) == len(examples) else (store, examples)
