"""Ranking of unlabelled pictures: uncertain ones first, spread over the features.

The candidates are the pictures with the smallest margin between the two highest probabilities. Among them, each next
picture is the one farthest from those that are already chosen, so that the list is not many copies of one picture. The
chosen pictures are listed by ascending margin.

Sources: Scheffer, Decomain and Wrobel 2001, "Active hidden Markov models for information extraction", for the margin;
Sener and Savarese 2018, "Active learning for convolutional neural networks: a core-set approach", for the spread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from features.schema import Features
from train_head.data.batches import Array
from train_head.evaluation.mahalanobis import scale_to_unit

CANDIDATES_PER_PICTURE = 5
"""Number of candidates for each chosen picture; docs/how-to/labels.md has measurements."""
_SAME = 1e-6
"""Largest squared distance of two features of length 1 that differ by rounding only."""


def rank_pictures(
    margins: NDArray[np.floating],
    features: Features | Array,
    count: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """Choose the rows to label.

    Rows with the features of a chosen one are left out.

    Args:
        margins: (n,) margins, from 0 to 1.
        features: (n, channels) features of the same pictures, averaged over height and width.
        count: largest number of rows to choose.
        advance: called with 1 after each choice.

    Returns:
        At most `count` rows, by ascending margin.
    """
    candidates = np.argsort(margins, kind="stable")[: count * CANDIDATES_PER_PICTURE]
    units = scale_to_unit(features[candidates].astype(np.float32))
    nearest = np.full(len(candidates), np.inf, np.float32)
    chosen: list[int] = []
    place = 0
    while len(chosen) < min(count, len(candidates)):
        chosen.append(int(candidates[place]))
        nearest = np.minimum(nearest, np.sum((units - units[place]) ** 2, axis=1))
        advance(1)
        place = int(nearest.argmax())
        if nearest[place] <= _SAME:
            break
    return sorted(chosen, key=lambda row: (float(margins[row]), row))
