"""Duplicates across the split: validation or test pictures that are (nearly) the same as a training picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from base.terminal import Console
from features.pooled import pool_store
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.reduction.cache import Means, get, make_key, put

NEAR = 0.75
"""Smallest similarity at which two pictures count as nearly the same.

Similarity is the correlation of the pictures' standardised channel means. It was measured on 800 training and 400
validation photographs of cats and dogs. For different photographs it is at most 0.72. For two versions of the same
photograph it is at least 0.90 if one was saved with JPEG quality 50, 0.85 if it is 30% brighter, 0.71 if it was cropped
by 5% or halved in size, and 0.65 (median 0.79) if it was mirrored.
"""
NUM_NEAR_SHOWN = 12
NUM_COMPARED = 500
MAX_PICTURES = 100_000
"""Largest number of training and validation pictures that are compared with each other."""
_BLOCK_NUMBERS = 2**24


class Pair(NamedTuple):
    """Validation or test picture with a similar training picture."""

    held_out: Example
    train: Example
    similarity: float
    """1 for the same bytes, else a correlation, -1 to 1."""


class Duplicates(NamedTuple):
    """Duplicates across a split."""

    exact: list[Pair]
    near: list[Pair]
    """Most similar pairs, which the report shows."""
    num_near: int | None
    """Number of pairs with a similarity of `NEAR` or more; None if there were too many pictures to compare."""
    typical_similarity: float
    """Median similarity of a training picture to its nearest other training picture."""


def find_duplicates(store: FeatureStore, split: Split, console: Console) -> Duplicates:
    """Find validation and test pictures with the bytes of a training picture, and validation pictures similar to one.

    Raises:
        FeatureStoreError: the features cannot be read.
    """
    exact = find_exact(split.train, [*split.validation, *split.test])
    means = load_means(store, split, console)
    if means is None:
        return Duplicates(exact, [], None, 0.0)
    nearest = find_nearest(split, means)
    num_near = sum(pair.similarity >= NEAR for pair in nearest)
    near = nearest[: max(NUM_NEAR_SHOWN, min(2 * NUM_NEAR_SHOWN, num_near))]
    return Duplicates(exact, near, num_near, measure_typical_similarity(means))


def find_exact(train: Sequence[Example], held_out: Sequence[Example]) -> list[Pair]:
    """Find the held-out pictures whose bytes are those of a training picture, in the order of their paths."""
    trained: dict[bytes, Example] = {}
    for example in sorted(train, key=lambda example: example.path):
        trained.setdefault(example.content_hash, example)
    ordered = sorted(held_out, key=lambda example: example.path)
    return [Pair(e, trained[e.content_hash], 1.0) for e in ordered if e.content_hash in trained]


def find_nearest(split: Split, means: Means) -> list[Pair]:
    """Find the most similar training picture of each validation picture, and sort by descending similarity.

    Pictures with the same bytes count once, and those with the bytes of a training picture are left out.
    """
    train, validation = _list_contents(split.train), _list_contents(split.validation)
    trained, held_out = (_standardise(values, means) for values in (means.train, means.validation))
    hashes = {example.content_hash for example in train}
    step = max(1, _BLOCK_NUMBERS // len(train))
    pairs = []
    for start in range(0, len(validation), step):
        similarities = held_out[start : start + step] @ trained.T
        for example, row in zip(validation[start : start + step], similarities, strict=True):
            if example.content_hash not in hashes:
                nearest = int(row.argmax())
                pairs.append(Pair(example, train[nearest], float(row[nearest])))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.held_out.path))


def measure_typical_similarity(means: Means) -> float:
    """Return the median similarity of about `NUM_COMPARED` training pictures to their nearest training picture."""
    trained = _standardise(means.train, means)
    chosen = np.arange(0, len(trained), max(1, len(trained) // NUM_COMPARED))
    similarities = trained[chosen] @ trained.T
    similarities[np.arange(len(chosen)), chosen] = -1
    return float(np.median(similarities.max(axis=1)))


def load_means(store: FeatureStore, split: Split, console: Console) -> Means | None:
    """Load the channel means of each picture from the store's `derived/`, or compute and store them there.

    Returns:
        A row for each distinct picture in the order of the content hashes; None above `MAX_PICTURES`.
    """
    train, validation = _list_contents(split.train), _list_contents(split.validation)
    if len(train) + len(validation) > MAX_PICTURES:
        return None
    pooled = pool_store(store) if len(store.feature_shape) == 3 else store
    key = make_key(pooled, [train, validation], 0)
    if cached := get(store.derived_folder, key, Means, console):
        return cached
    values = pooled.read([*train, *validation]).astype(np.float32)
    means = Means(values[: len(train)], values[len(train) :])
    with suppress(OSError):
        put(store.derived_folder, key, means)
    return means


def _list_contents(examples: Sequence[Example]) -> list[Example]:
    """List one example for each content hash, in the order of the hashes."""
    first: dict[bytes, Example] = {}
    for example in sorted(examples, key=lambda example: example.path):
        first.setdefault(example.content_hash, example)
    return [first[content_hash] for content_hash in sorted(first)]


def _standardise(values: Array, means: Means) -> Array:
    """Standardise by the mean and deviation of training, and scale rows so that inner products are correlations."""
    moved: Array = (values - means.train.mean(axis=0)) / (means.train.std(axis=0) + np.float32(1e-6))
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.maximum(lengths, np.float32(1e-12)), np.float32)
