"""Batches of features in a seeded order, from memory where they fit, else block by block from the shards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.schema import FEATURE_DTYPE, Features
from features.store import Example, FeatureStore

MEMORY_SHARE = 0.5
"""How much of the memory that is free may be taken for features."""
BLOCK_BYTES = 256 * 2**20
"""What is held at a time where the features do not fit: the shuffle buffer."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch: blocks of example numbers, batches cut from each block."""

    blocks: list[Indices]

    def list_batches(self, batch_size: int) -> list[tuple[int, Indices]]:
        """Lists (block number, positions within the block), each batch from one block."""
        return [
            (number, np.arange(start, min(start + batch_size, len(block))))
            for number, block in enumerate(self.blocks)
            for start in range(0, len(block), batch_size)
        ]


def plan_epoch(
    examples: Sequence[Example], rows_per_block: int, rng: np.random.Generator | None
) -> EpochOrder:
    """Plans the order in which an epoch sees its examples.

    Args:
        examples: what is trained on.
        rows_per_block: how many are held at a time; as many as there are gives a perfect shuffle.
        rng: draws the order; None keeps the examples' own order.

    Returns:
        Each example once. With several blocks, shards are drawn in a random order and read in turn, and
        examples are shuffled within a block.
    """
    numbers = np.arange(len(examples))
    if rng is None:
        order = numbers
    elif rows_per_block >= len(examples):
        order = rng.permutation(numbers)
    else:
        shards = np.array([example.shard for example in examples])
        rank = rng.permutation(shards.max() + 1)
        order = numbers[np.lexsort((rng.random(len(numbers)), rank[shards]))]
    blocks = [order[start : start + rows_per_block] for start in range(0, len(order), rows_per_block)]
    if rng is not None and len(blocks) > 1:
        blocks = [rng.permutation(block) for block in blocks]
    return EpochOrder(blocks)


class FeatureBatches:
    """Features and targets of some examples, batch by batch."""

    def __init__(
        self,
        store: FeatureStore,
        examples: Sequence[Example],
        classes: Sequence[str],
        *,
        batch_size: int,
        seed: int | None,
        memory: int | None = None,
    ) -> None:
        """Plans the first epoch; features are read when they are asked for.

        Args:
            store: where they are.
            examples: which.
            classes: the labels in order.
            batch_size: rows of a batch, the last of a block maybe fewer.
            seed: of the order; None for the examples' own.
            memory: bytes that may be held; None for a share of what is free.
        """
        self._store, self._examples = store, list(examples)
        number_of = {label: number for number, label in enumerate(classes)}
        self.targets = np.array([number_of[example.label] for example in examples])
        self._batch_size, self._seed = batch_size, seed
        row_bytes = int(np.prod(store.feature_shape)) * FEATURE_DTYPE.itemsize
        memory = int(read_free_memory() * MEMORY_SHARE) if memory is None else memory
        fits = row_bytes * len(self._examples) <= memory
        self._rows_per_block = (
            max(1, len(self._examples)) if fits else max(batch_size, min(BLOCK_BYTES, memory) // row_bytes)
        )
        self._all = store.read(self._examples) if fits else None
        self._held: tuple[int, Features] | None = None
        self.start_epoch(0)

    @property
    def in_memory(self) -> bool:
        """Whether all features are held at once."""
        return self._all is not None

    def start_epoch(self, epoch: int) -> None:
        """Takes up the order of an epoch, which depends on the seed and its number alone."""
        rng = None if self._seed is None else np.random.default_rng((self._seed, epoch))
        self._order = plan_epoch(self._examples, self._rows_per_block, rng)
        self._batches = self._order.list_batches(self._batch_size)
        self._held = None

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._batches)

    def read_batch(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Reads a batch of the current epoch.

        Returns:
            Features (b, *feature_shape) float32, and class numbers (b, 1) float32.
        """
        block_number, positions = self._batches[number]
        chosen = self._order.blocks[block_number][positions]
        features = self._read_block(block_number)[positions] if self._all is None else self._all[chosen]
        return features.astype(np.float32), self.targets[chosen].astype(np.float32)[:, None]

    def _read_block(self, number: int) -> Features:
        if self._held is None or self._held[0] != number:
            self._held = None
            block = self._order.blocks[number]
            self._held = number, self._store.read([self._examples[index] for index in block])
        return self._held[1]


def read_free_memory() -> int:
    """Returns how many bytes of memory could be taken without swapping."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
