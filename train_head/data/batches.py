"""Batches of features in a seeded order, from memory if they fit, else from blocks that are sorted for each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.schema import FEATURE_DTYPE, Features
from features.store import Example, FeatureStore
from features.validation_split import encode_label_sets, encode_labels
from train_head.config import ClassWeight
from train_head.data.blocks import Blocks, sort_features
from train_head.data.split import Targets

HELD_BYTES = 256 * 2**20
"""Largest size of the training or validation features, as float16, that stay in memory."""
BLOCK_BYTES = 64 * 2**20
"""Size of the blocks of float16 features that are read at a time if they do not stay in memory."""

Array = NDArray[np.float32]
Indices = NDArray[np.int64]


def weigh_examples(targets: Targets, class_weight: ClassWeight) -> NDArray[np.float32]:
    """Return the weights of examples in the loss, in the shape of their targets.

    `balanced` gives the weight n / (classes × examples of the class), as scikit-learn does; `none` gives 1. Each class
    must have an example. With several labels a picture, each label is a problem of two classes: the examples with it
    and those without it.
    """
    if class_weight is ClassWeight.NONE:
        return np.ones(targets.shape, np.float32)
    if targets.ndim == 2:
        num_with = targets.sum(axis=0, dtype=np.int64)
        with_label, without = (len(targets) / (2 * count) for count in (num_with, len(targets) - num_with))
        return np.asarray(np.where(targets, with_label, without), np.float32)
    counts = np.bincount(targets)
    return (len(targets) / (len(counts) * counts[targets])).astype(np.float32)


class EpochPlan(NamedTuple):
    """Order of the pictures in one epoch, and the view of each."""

    pictures: Indices
    """(n,) numbers of the pictures."""
    rows: Indices
    """(n,) row of the view that was drawn for each picture."""


class PictureOrder:
    """Order of the pictures and their views in each epoch, determined by the rows, the seed and the epoch's number."""

    def __init__(self, rows: Sequence[Example], seed: int | None) -> None:
        """Group rows into pictures by path; without a seed, each epoch has the first views in the order of the rows."""
        of_path: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            of_path.setdefault(row.path, []).append(number)
        self._rows = np.array([number for numbers in of_path.values() for number in numbers], np.int64)
        self._counts = np.array([len(numbers) for numbers in of_path.values()], np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._seed = seed
        self.first_rows: Indices = self._rows[self._starts]
        """(pictures,) row of the first view of each picture."""

    def plan(self, epoch: int) -> EpochPlan:
        """Return the order of an epoch, counted from 0: each picture once, in one of its views."""
        if self._seed is None:
            return EpochPlan(np.arange(len(self._counts)), self.first_rows)
        pictures = np.random.default_rng((self._seed, epoch)).permutation(len(self._counts))
        # A separate generator draws the views, so that their number does not change the order of the pictures.
        views = np.random.default_rng((self._seed, epoch, 1)).integers(self._counts)
        return EpochPlan(pictures, self._rows[self._starts + views][pictures])


class FeatureBatches:
    """Batches of features, targets and weights; each epoch has each picture once, in a random view.

    A batch depends only on its number, counted through all epochs, and not on the batches read before: Keras reads
    ahead in its own thread, also beyond the end of an epoch. Features in memory and from the shards give equal batches:
    each epoch reads each shard once and sorts the rows into the order of the epoch, on disk.
    """

    def __init__(
        self,
        store: FeatureStore,
        examples: Sequence[Example],
        classes: Sequence[str],
        *,
        batch_size: int,
        seed: int | None,
        class_weight: ClassWeight = ClassWeight.NONE,
        is_multi_label: bool = False,
    ) -> None:
        """Read the features if they fit in `HELD_BYTES`.

        Args:
            store: the store of the features.
            examples: the rows: view 0 of each picture, and any further views.
            classes: the labels in the order of their class numbers.
            batch_size: number of pictures in a batch; the last batch of an epoch may have fewer.
            seed: seed of the order; None keeps the order of the examples.
            class_weight: weights of the pictures in the loss.
            is_multi_label: whether a picture may have several labels.
        """
        self._store, self._rows, self._order = store, list(examples), PictureOrder(examples, seed)
        encode = encode_label_sets if is_multi_label else encode_labels
        self.targets: Targets = encode([self._rows[row] for row in self._order.first_rows], classes)
        self._weights = weigh_examples(self.targets, class_weight)
        self._batch_size, self._seed = batch_size, seed
        row_bytes = int(np.prod(store.feature_shape)) * FEATURE_DTYPE.itemsize
        self._rows_at_once = max(1, BLOCK_BYTES // row_bytes)
        self._all = store.read(self._rows) if row_bytes * len(self._rows) <= HELD_BYTES else None
        self._plan = lru_cache(maxsize=1)(self._order.plan)
        self._sorted: tuple[tuple[int | None, int], Blocks] | None = None
        self._held: tuple[tuple[int, int], Features] | None = None
        self.num_batches = -(-len(self.targets) // batch_size)
        """Number of batches in an epoch."""

    @property
    def in_memory(self) -> bool:
        """Whether all features are in memory."""
        return self._all is not None

    def read_batch(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Read batch `number`, counted from 0 through all epochs.

        Returns:
            Features (b, *feature shape), class numbers (b, 1) or labels (b, classes), and weights (b,) or (b, classes),
            all float32.
        """
        epoch, number_in_epoch = divmod(number, self.num_batches)
        plan = self._plan(epoch)
        batch = slice(number_in_epoch * self._batch_size, (number_in_epoch + 1) * self._batch_size)
        pictures = plan.pictures[batch]
        features = self._all[plan.rows[batch]] if self._all is not None else self._read_from_block(epoch, batch, plan)
        targets = self.targets[pictures].astype(np.float32).reshape(len(pictures), -1)
        return features.astype(np.float32), targets, self._weights[pictures]

    def iterate_in_order(self, batch_size: int) -> Iterator[NDArray[np.float32]]:
        """Yield the first view of each picture in the order of the examples, as float32 (at most batch_size, ...)."""
        first = self._order.first_rows
        if self._all is not None:
            for start in range(0, len(first), batch_size):
                yield self._all[first[start : start + batch_size]].astype(np.float32)
            return
        self._held = None
        blocks = self._sort(None, first, self._round_block(batch_size))
        for number in range(blocks.num_blocks):
            block = blocks.read(number)
            for offset in range(0, len(block), batch_size):
                yield block[offset : offset + batch_size].astype(np.float32)

    def _read_from_block(self, epoch: int, batch: slice, plan: EpochPlan) -> Features:
        """Return a batch's features from the block that holds it; the last block read stays in memory."""
        step = self._round_block(self._batch_size)
        number, offset = divmod(batch.start, step)
        held = self._held
        if held is None or held[0] != (epoch, number):
            self._held = held = None
            blocks = self._sort(None if self._seed is None else epoch, plan.rows, step)
            self._held = held = (epoch, number), blocks.read(number)
        return held[1][offset : offset + self._batch_size]

    def _round_block(self, batch_size: int) -> int:
        """Return the number of rows to read at a time: a multiple of the batch size."""
        return max(1, self._rows_at_once // batch_size) * batch_size

    def _sort(self, epoch: int | None, rows: Indices, step: int) -> Blocks:
        """Return the features of rows in blocks; the blocks of the last epoch are kept. None is the order of rows."""
        if self._sorted is None or self._sorted[0] != (epoch, step):
            # The file of the former epoch is removed first.
            self._sorted = None
            self._sorted = (epoch, step), sort_features(self._store, [self._rows[row] for row in rows.tolist()], step)
        return self._sorted[1]
