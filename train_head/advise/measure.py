"""Leave-one-out results of a linear head on stored features, and on parts of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from features.schema import FeatureKey
from features.store import FeatureStore
from train_head.advise.statistics import Correct
from train_head.data.batches import Array, Indices
from train_head.reduction.decompose import reduce_gram
from train_head.reduction.matrix import FeatureMatrix
from train_head.solvers.least_squares import fit_least_squares, make_targets

MIN_PART = 10
"""Smallest number of pictures in a part of a learning curve."""
PARTS = (4, 2)
"""Numbers of parts into which the pictures are divided for a learning curve, besides all of them."""


def read_inputs(stores: Sequence[FeatureStore], hashes: Sequence[bytes], workers: ThreadPoolExecutor) -> Array:
    """Read the inputs of a head: the features of one store, or those of several, one after the other.

    Features with more numbers than there are pictures are replaced by coordinates in the span of the pictures, which
    have the same inner products, so that a linear head with an L2 penalty is the same. Each of several stores is scaled
    to unit mean square.

    Args:
        stores: the stores; several have features of shape (channels,).
        hashes: content hashes of the pictures.
        workers: the threads of `open_workers`.

    Returns:
        The inputs, (pictures, inputs), in the order of the content hashes.
    """
    keys = [FeatureKey(content_hash, 0) for content_hash in hashes]
    if len(stores) == 1 and np.prod(stores[0].feature_shape) > len(hashes):
        return reduce_gram(FeatureMatrix(stores[0], stores[0].find_stored(keys), workers).compute_gram())
    parts = []
    for store in stores:
        part = store.read(store.find_stored(keys)).reshape(len(hashes), -1).astype(np.float64)
        mean_square = float(np.mean(part**2)) if len(stores) > 1 else 1.0
        parts.append(part / np.sqrt(mean_square or 1.0))
    return np.concatenate(parts, axis=1).astype(np.float32)


def classify_left_out(inputs: Array, numbers: Indices, num_classes: int) -> Correct:
    """Return whether each picture is classified correctly by a head that is fitted to all other pictures.

    The head is linear, fitted by least squares; its penalty is chosen by the leave-one-out error of all pictures.

    Args:
        inputs: (pictures, inputs).
        numbers: (pictures,) class numbers.
        num_classes: number of classes.
    """
    if inputs.shape[1] > len(inputs):
        wide = inputs.astype(np.float64)
        inputs = reduce_gram(wide @ wide.T)
    if not inputs.shape[1]:
        # Equal features: every head predicts the same class for all pictures.
        inputs = np.zeros((len(inputs), 1), np.float32)
    found = fit_least_squares(partial(iter, [inputs]), make_targets(numbers, num_classes), np.ones(len(inputs)))
    scores = found.scores
    predicted = scores.argmax(axis=1) if num_classes > 2 else (scores[:, 0] > 0).astype(np.int64)
    return np.asarray(predicted == numbers)


def measure_parts(inputs: Array, numbers: Indices, num_classes: int, whole: Correct) -> tuple[list[int], list[Correct]]:
    """Classify every picture with heads fitted to a quarter, a half and all of the pictures.

    The pictures are divided into parts with the same shares of the classes, and each picture is classified by a head
    that is fitted to the other pictures of its part. All numbers of pictures are thus measured on the same pictures.

    Args:
        inputs: (pictures, inputs).
        numbers: (pictures,) class numbers.
        num_classes: number of classes.
        whole: the results of `classify_left_out` on all pictures.

    Returns:
        The numbers of training pictures, ascending, and the results for each; fewer than two if there are too few
        pictures.
    """
    sizes, results = [], []
    ranks = _rank_in_class(numbers)
    for num_parts in PARTS:
        if len(numbers) < num_parts * MIN_PART:
            continue
        part_of = (ranks + numbers) % num_parts
        correct = np.empty(len(numbers), np.bool_)
        for part in range(num_parts):
            rows = np.flatnonzero(part_of == part)
            correct[rows] = classify_left_out(inputs[rows], numbers[rows], num_classes)
        sizes.append(len(numbers) // num_parts)
        results.append(correct)
    return [*sizes, len(numbers)], [*results, whole]


def _rank_in_class(numbers: Indices) -> Indices:
    """Return the position of each picture among those of its class."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.searchsorted(ordered, ordered)
    ranks = np.empty_like(numbers)
    ranks[order] = np.arange(len(numbers)) - starts
    return ranks
