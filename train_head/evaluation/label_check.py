"""Check of the labels of a run's pictures, with scores that are computed once for each set of pictures and labels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.terminal import Console, format_count
from features.store import Example
from features.validation_split import encode_labels
from train_head.data.batches import Array, Indices
from train_head.data.split import Split
from train_head.evaluation.confident import MIN_PICTURES, is_informative, score_labels
from train_head.evaluation.label_issues import CheckedLabels, Evidence, find_issues
from train_head.evaluation.mahalanobis import fit_classes
from train_head.evaluation.pooled import MAX_PICTURES, PooledFeatures
from train_head.reduction.cache import LabelScores, Neighbours, get, make_key, put
from train_head.reduction.matrix import open_workers

MAX_NUMBERS = 2**26
"""Largest number of pictures times classes; each of several arrays needs 8 bytes for each."""
UNKNOWN = -1
"""Class number of a picture whose label is not checked."""
FORMAT = 1
"""Version of the scores; increment it after a change that alters them."""


def check_labels(
    split: Split, pooled: PooledFeatures, neighbours: Neighbours | None, console: Console
) -> CheckedLabels:
    """Check the labels of the training and validation pictures.

    Args:
        split: the pictures.
        pooled: features of the different pictures, in the order of their content hashes.
        neighbours: neighbours of the different pictures; None if they were not searched for.
        console: receives warnings about the cache.

    Raises:
        FeatureStoreError: the features cannot be read.
    """
    if split.is_multi_label:
        return CheckedLabels(limits=["Labels were not checked, because pictures may have several."])
    classes, files = split.classes, sorted((*split.train, *split.validation), key=lambda file: file.path)
    first_of: dict[bytes, Example] = {}
    labels_of: dict[bytes, set[str]] = defaultdict(set)
    for file in files:
        first_of.setdefault(file.content_hash, file)
        labels_of[file.content_hash].add(file.label)
    pictures = [first_of[picture.content_hash] for picture in pooled.examples]
    numbers = encode_labels(pictures, classes)
    # A picture with several labels has none that could be checked.
    numbers[[len(labels_of[picture.content_hash]) > 1 for picture in pictures]] = UNKNOWN
    evidence, known = Evidence(pictures, files, classes, neighbours), numbers >= 0
    limits = list_limits(numbers, len(classes))
    counts = np.bincount(numbers[known], minlength=len(classes))
    if counts.max() < MIN_PICTURES or len(numbers) * len(classes) > MAX_NUMBERS:
        return CheckedLabels(find_issues(evidence), limits=limits)
    scores = load_scores(pooled, numbers, len(classes), console)
    num_checked = int(counts[counts >= MIN_PICTURES].sum())
    if not is_informative(scores.predicted[known], numbers[known]):
        num_checked = 0
        limits.append("No label was compared with its picture: the features do not predict the labels.")
    accuracy = float(np.mean(scores.predicted[known] == numbers[known]))
    return CheckedLabels(find_issues(replace(evidence, scores=scores)), num_checked, accuracy, limits)


def load_scores(pooled: PooledFeatures, numbers: Indices, num_classes: int, console: Console) -> LabelScores:
    """Load the scores of labels from the store's `derived/`, or compute and store them there.

    Args:
        pooled: features of n different pictures, in the order of their content hashes.
        numbers: (n,) class numbers of the labels; `UNKNOWN` for a picture without one.
        num_classes: two or more.
        console: receives warnings about the cache.
    """
    store = pooled.store
    key = hashlib.sha256(f"{make_key(store, [pooled.examples], 0)} {FORMAT} {num_classes}".encode() + numbers.tobytes())
    if cached := get(store.derived_folder, key.hexdigest(), LabelScores, console):
        return cached
    found = compute_scores(pooled, numbers, num_classes)
    with suppress(OSError):
        put(store.derived_folder, key.hexdigest(), found)
    return found


def compute_scores(pooled: PooledFeatures, numbers: Indices, num_classes: int) -> LabelScores:
    """Compute the scores of labels; the arguments are those of `load_scores`."""
    known = numbers >= 0

    def read_known() -> Iterator[Array]:
        start = 0
        for block in pooled.read_blocks():
            rows = known[start : start + len(block)]
            start += len(block)
            if rows.any():
                yield block[rows]

    with open_workers():
        found = score_labels(read_known, numbers[known], num_classes)
    if len(numbers) <= MAX_PICTURES:
        # Classes without pictures have no mean.
        _, numbers_of_present = np.unique(numbers[known], return_inverse=True)
        found = replace(found, distances=fit_classes(pooled.values[known], numbers_of_present)[1])
    return LabelScores(**{name: _spread(array, known) for name, array in vars(found).items()})


def list_limits(numbers: Indices, num_classes: int) -> list[str]:
    """Describe which labels are not checked, and why, as sentences.

    Args:
        numbers: (n,) class numbers of the labels; `UNKNOWN` for a picture without one.
        num_classes: number of classes.
    """
    limits = []
    counts = np.bincount(numbers[numbers >= 0], minlength=num_classes)
    few = counts[(counts > 0) & (counts < MIN_PICTURES)]
    if len(numbers) * num_classes > MAX_NUMBERS:
        limits.append(
            f"No label was compared with its picture: more than {MAX_NUMBERS:,} probabilities would be needed."
        )
    elif len(few):
        classes = format_count(len(few), "class", "classes")
        limits.append(
            f"The labels of {format_count(int(few.sum()), 'picture')} were not compared with their pictures: "
            f"{classes} with fewer than {MIN_PICTURES} pictures."
        )
    if len(numbers) > MAX_PICTURES:
        limits.append(f"Near-duplicates and outliers were not searched for: more than {MAX_PICTURES:,} pictures.")
    return limits


def _spread(values: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[Any]:
    """Return an array with the values in the known rows, and NaN or `UNKNOWN` in the others."""
    spread = np.full(len(known), np.nan if values.dtype.kind == "f" else UNKNOWN, values.dtype)
    spread[known] = values
    return spread
