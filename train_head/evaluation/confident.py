"""Confident learning: labels that the leave-one-out scores of a ridge regression contradict.

Each picture gets the probabilities of all classes from a fit without it. The threshold of a class is the mean
probability of that class over the pictures that are labelled with it. A label is contradicted if another class reaches
its threshold and is more probable than the label. The fit is then repeated without these pictures, because wrong
labels hide each other, and pictures that the second fit contradicts are added.

Source: Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels", section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array, Indices
from train_head.evaluation.uncertainty import compute_interval
from train_head.reduction.cache import LabelScores
from train_head.reduction.decompose import reduce_gram
from train_head.solvers.least_squares import Reader, fit_least_squares, make_targets
from train_head.solvers.network import compute_probabilities
from train_head.solvers.scaling import fit_scale

MIN_PICTURES = 5
"""Smallest number of different pictures of a class whose labels are checked.

With fewer, a fit without one of them has too few pictures of the class, and would contradict most of its labels.
"""
NUM_FITS = 2
"""Number of fits; docs/how-to/labels.md has measurements with one and with two."""
WIDE = 2
"""Largest number of channels for each picture with which the fit uses the channels themselves."""


def score_labels(read_blocks: Reader, numbers: Indices, num_classes: int) -> LabelScores:
    """Compute leave-one-out probabilities, and find the labels that they contradict.

    No label is contradicted if the predicted classes are not right more often than the largest class, beyond chance:
    features that do not predict the labels cannot contradict them.

    Args:
        read_blocks: reads the features of n different pictures, as in `fit_least_squares`.
        numbers: (n,) class numbers of their labels.
        num_classes: two or more.

    Returns:
        The scores, without distances.
    """
    rows, targets = np.arange(len(numbers)), make_targets(numbers, num_classes)
    suggested = np.full(len(numbers), -1, np.int32)
    read_inputs = _choose_inputs(read_blocks, len(numbers))
    for _ in range(NUM_FITS):
        kept = suggested < 0
        scores = fit_least_squares(read_inputs, targets, kept.astype(np.float64)).scores
        slope, offset = fit_scale(scores, numbers, np.ones(len(numbers)))
        probabilities = compute_probabilities((slope * scores + offset).astype(np.float32))
        if not is_informative(probabilities.argmax(axis=1), numbers):
            break
        suggested = np.where(kept, find_contradicted(probabilities, numbers), suggested)
        if np.array_equal(suggested < 0, kept):
            break
    return LabelScores(
        probabilities[rows, numbers],
        probabilities.argmax(axis=1).astype(np.int32),
        suggested,
        np.where(suggested >= 0, probabilities[rows, suggested], np.float32(0)),
        np.full(len(numbers), np.nan, np.float32),
    )


def find_contradicted(probabilities: Array, numbers: Indices) -> NDArray[np.int32]:
    """Return the number of the class, (n,), that contradicts each label; -1 if none does.

    Args:
        probabilities: (n, classes) probabilities from fits without the picture.
        numbers: (n,) class numbers of the labels.
    """
    rows, counts = np.arange(len(numbers)), np.bincount(numbers, minlength=probabilities.shape[1])
    given = probabilities[rows, numbers].astype(np.float64)
    thresholds = np.bincount(numbers, given, len(counts)) / np.maximum(counts, 1)
    # Nothing shows how probable a class without pictures would be for them.
    thresholds[counts == 0] = np.inf
    reaching = np.where(probabilities >= thresholds, probabilities, -1.0)
    reaching[rows, numbers] = -1.0
    best = reaching.argmax(axis=1)
    is_contradicted = (reaching[rows, best] > given) & (counts[numbers] >= MIN_PICTURES)
    return np.where(is_contradicted, best, -1).astype(np.int32)


def is_informative(predicted: NDArray[np.integer], numbers: Indices) -> bool:
    """Return whether predicted classes, (n,), are right more often than the largest class, beyond chance."""
    num_right, num_largest = int(np.sum(predicted == numbers)), int(np.bincount(numbers).max())
    return compute_interval(num_right, len(numbers)).low > num_largest / len(numbers)


def _choose_inputs(read_blocks: Reader, num_rows: int) -> Reader:
    """Return a reader of the inputs of the fit; wide features are rotated into the span of the rows.

    A rotation changes no score, and the time of a fit grows with the cube of the number of inputs.
    """
    read_roots = partial(_read_roots, read_blocks)
    if next(read_blocks()).shape[1] <= WIDE * num_rows:
        return read_roots
    features = np.concatenate([*read_roots()]).astype(np.float64)
    return partial(iter, [reduce_gram(features @ features.T)])


def _read_roots(read_blocks: Reader) -> Iterator[Array]:
    """Yield signed square roots of the features.

    They make the long tails of activations shorter. Source: Perronnin, Sánchez and Mensink 2010, "Improving the Fisher
    kernel for large-scale image classification".
    """
    for block in read_blocks():
        yield np.sign(block) * np.sqrt(np.abs(block))
