"""Batches of features in a seeded order, from memory where they fit, else block by block from the shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.schema import FEATURE_DTYPE, Features
from features.store import Example, FeatureStore
from train_head.config import ClassWeight

MEMORY_SHARE = 0.5
"""How much of the memory that is free may be taken for features."""
BLOCK_BYTES = 256 * 2**20
"""What is held at a time where the features do not fit: the shuffle buffer."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch: blocks of picture numbers, batches cut from each block."""

    blocks: list[Indices]
    rows: Indices
    """For each picture, which row it is this time: that of one of its views."""

    def list_batches(self, batch_size: int) -> list[tuple[int, slice]]:
        """Lists (block number, positions within the block), each batch from one block."""
        return [
            (number, slice(start, start + batch_size))
            for number, block in enumerate(self.blocks)
            for start in range(0, len(block), batch_size)
        ]


def number_targets(examples: Sequence[Example], classes: Sequence[str]) -> Indices:
    """Gives each example the number of its class, its label's place among the classes."""
    number_of = {label: number for number, label in enumerate(classes)}
    return np.array([number_of[example.label] for example in examples], np.int64)


def weigh_examples(targets: Indices, class_weight: ClassWeight) -> NDArray[np.float32]:
    """Says how much each example counts in the loss.

    Args:
        targets: (n,) class numbers; each class occurs.
        class_weight: `balanced` gives every class the same sum, and all together n.

    Source: `class_weight="balanced"` of scikit-learn: n / (classes * count of the class).
    """
    if class_weight is ClassWeight.NONE:
        return np.ones(len(targets), np.float32)
    counts = np.bincount(targets)
    return (len(targets) / (len(counts) * counts[targets])).astype(np.float32)


def plan_epoch(examples: Sequence[Example], rows_per_block: int, rng: np.random.Generator | None) -> list[Indices]:
    """Plans the order in which an epoch sees its examples.

    Args:
        examples: what is trained on, one view of each picture.
        rows_per_block: how many are held at a time; as many as there are gives a perfect shuffle.
        rng: draws the order; None keeps the examples' own order.

    Returns:
        Blocks of example numbers, each once. With several blocks, shards are drawn in a random order and read in
        turn, and examples are shuffled within a block.
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
    return blocks


class _Views:
    """Which rows are views of one picture: those of its path."""

    def __init__(self, rows: Sequence[Example]) -> None:
        of_path: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            of_path.setdefault(row.path, []).append(number)
        self.rows = np.array([number for numbers in of_path.values() for number in numbers], np.int64)
        self.counts = np.array([len(numbers) for numbers in of_path.values()], np.int64)
        self.starts = np.cumsum(self.counts) - self.counts

    def draw(self, rng: np.random.Generator | None) -> Indices:
        """Draws a view for each picture; view 0 without a generator."""
        places = self.starts if rng is None else self.starts + rng.integers(self.counts)
        return np.asarray(self.rows[places], np.int64)


class FeatureBatches:
    """Features and targets of some examples, batch by batch, epoch after epoch.

    Each epoch sees each picture once, in one of its views, drawn anew.

    A batch is a function of its number alone, counted through all epochs: Keras prefetches in threads of its
    own, also beyond the end of an epoch, and none of that may change what is trained on.
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
        memory: int | None = None,
    ) -> None:
        """Reads the features where they fit in memory.

        Args:
            store: where they are.
            examples: which; views of one picture have its path, and the first of them counts where none is drawn.
            classes: the labels in order.
            batch_size: rows of a batch, the last of a block maybe fewer.
            seed: of the order; None for the examples' own.
            class_weight: how much an example counts.
            memory: bytes that may be held; None for a share of what is free.
        """
        self._store, self._rows, self._views = store, list(examples), _Views(examples)
        self.targets = number_targets([self._rows[row] for row in self._views.draw(None)], classes)
        self._weights = weigh_examples(self.targets, class_weight)
        self._batch_size, self._seed = batch_size, seed
        row_bytes = int(np.prod(store.feature_shape)) * FEATURE_DTYPE.itemsize
        memory = int(read_free_memory() * MEMORY_SHARE) if memory is None else memory
        fits = row_bytes * len(self._rows) <= memory
        self._rows_per_block = (
            max(1, len(self._rows)) if fits else max(batch_size, min(BLOCK_BYTES, memory) // row_bytes)
        )
        self._all = store.read(self._rows) if fits else None
        self._planned: tuple[int, EpochOrder] | None = None
        self._held: tuple[tuple[int, int], Features] | None = None
        self.num_batches = len(self._plan(0).list_batches(batch_size))
        """In each epoch."""

    @property
    def in_memory(self) -> bool:
        """Whether all features are held at once."""
        return self._all is not None

    def read_batch(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Reads a batch.

        Args:
            number: counted from the first batch of the first epoch.

        Returns:
            Features (b, *feature_shape) float32, class numbers (b, 1) float32, and how much each counts in the
            loss (b,) float32.
        """
        epoch, number_in_epoch = divmod(number, self.num_batches)
        order = self._plan(epoch)
        block_number, positions = order.list_batches(self._batch_size)[number_in_epoch]
        chosen = order.blocks[block_number][positions]
        if self._all is None:
            features = self._read_block(epoch, block_number, order)[positions]
        else:
            features = self._all[order.rows[chosen]]
        return features.astype(np.float32), self.targets[chosen].astype(np.float32)[:, None], self._weights[chosen]

    def list_in_order(self, batch_size: int) -> Iterator[NDArray[np.float32]]:
        """Yields the first view of each picture in the examples' order, `batch_size` rows at a time, as float32."""
        first = self._views.draw(None)
        # Whole blocks at a time: every read checks the bytes of each shard that it touches.
        step = batch_size if self.in_memory else max(batch_size, self._rows_per_block // batch_size * batch_size)
        for start in range(0, len(first), step):
            rows = first[start : start + step]
            block = self._store.read([self._rows[row] for row in rows]) if self._all is None else self._all[rows]
            for offset in range(0, len(block), batch_size):
                yield block[offset : offset + batch_size].astype(np.float32)

    def _plan(self, epoch: int) -> EpochOrder:
        planned = self._planned
        if planned is None or planned[0] != epoch:
            order = views = None
            if self._seed is not None:
                # The views have a generator of their own: how many there are does not change the order.
                order = np.random.default_rng((self._seed, epoch))
                views = np.random.default_rng((self._seed, epoch, 1))
            rows = self._views.draw(views)
            blocks = plan_epoch([self._rows[row] for row in rows], self._rows_per_block, order)
            self._planned = planned = epoch, EpochOrder(blocks, rows)
        return planned[1]

    def _read_block(self, epoch: int, number: int, order: EpochOrder) -> Features:
        held = self._held
        if held is None or held[0] != (epoch, number):
            self._held = held = None
            block = order.blocks[number]
            rows = order.rows[block]
            self._held = held = (epoch, number), self._store.read([self._rows[row] for row in rows])
        return held[1]


def read_free_memory() -> int:
    """Returns how many bytes of memory could be taken without swapping; half of all where no kernel says."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
