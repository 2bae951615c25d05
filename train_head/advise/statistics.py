"""Paired comparison of settings on the same pictures, and the learning curve of one setting."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from train_head.evaluation.uncertainty import CONFIDENCE

Float64 = NDArray[np.float64]
Correct = NDArray[np.bool_]
"""(pictures,) whether each picture was classified correctly by a head that was fitted without it."""

NUM_DRAWS = 4000
"""Number of bootstrap samples of a learning curve."""
LITTLE = 0.005
"""Gain in accuracy from twice as many pictures below which more pictures are not worth collecting."""


@dataclass(frozen=True)
class Difference:
    """Difference in accuracy between two settings on the same pictures."""

    gain: float
    """Accuracy of the second setting minus that of the first, -1 to 1."""
    low: float
    high: float
    p_value: float
    """Corrected for the number of comparisons, 0 to 1."""

    @property
    def is_better(self) -> bool:
        """Whether the second setting is significantly better."""
        return self.gain > 0 and self.p_value < 1 - CONFIDENCE


def compare_paired(first: Correct, second: Correct, num_comparisons: int = 1) -> Difference:
    """Compare the accuracy of two settings on the same pictures.

    The p-value is that of the exact McNemar test: of the pictures on which the settings differ, each is right on half
    if they are equally good. The interval is that of Bonett and Price (2012). Both are corrected for the number of
    comparisons with Bonferroni's inequality, so that all intervals contain their true values with a probability of 95%.

    Args:
        first: the setting to compare with.
        second: the other setting, in the same order of pictures.
        num_comparisons: number of settings that are compared with the first.
    """
    num, num_gained, num_lost = len(first), int(np.sum(second & ~first)), int(np.sum(first & ~second))
    num_different = num_gained + num_lost
    tail = sum(comb(num_different, count) for count in range(min(num_gained, num_lost) + 1))
    p_value = min(1.0, num_comparisons * 2 * tail / 2**num_different)
    gained, lost = (num_gained + 1) / (num + 2), (num_lost + 1) / (num + 2)
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / num_comparisons / 2)
    half = z * sqrt((gained + lost - (gained - lost) ** 2) / (num + 2))
    low, high = max(-1.0, gained - lost - half), min(1.0, gained - lost + half)
    return Difference((num_gained - num_lost) / num, low, high, p_value)


def count_detectable(num_comparisons: int) -> int:
    """Return the smallest number of pictures that a setting must gain, without losing any, to be significantly better.

    Args:
        num_comparisons: number of settings that are compared with the first.
    """
    count = 1
    while num_comparisons * 2 / 2**count >= 1 - CONFIDENCE:
        count += 1
    return count


class Outlook(StrEnum):
    """Conclusion of a learning curve about twice as many pictures."""

    HELPS = "helps"
    LITTLE = "little"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy of one setting for different numbers of training pictures, measured on the same pictures."""

    num_train: list[int]
    accuracies: list[float]
    gain: float
    """Expected gain in accuracy from twice as many pictures."""
    low: float
    high: float

    @property
    def outlook(self) -> Outlook:
        """Whether twice as many pictures would help."""
        if self.low > 0:
            return Outlook.HELPS
        return Outlook.LITTLE if self.high < LITTLE else Outlook.UNKNOWN


def extrapolate_curve(num_train: Sequence[int], correct: Sequence[Correct], seed: int) -> LearningCurve:
    """Extrapolate the accuracy to twice as many training pictures, with a power law of the error.

    The error is c · n^-b for n training pictures; b is the slope of a straight line through the logarithms. The
    interval is that of a Bayesian bootstrap over the pictures (Rubin 1981): each draw weights the pictures, with their
    results at every size. Each pattern of results that did not occur counts as a part of one further picture, so that
    a few pictures without an error are not taken for a certainty. The interval contains that of the line through the
    last two sizes, because a curve may have become flat or steep.

    Args:
        num_train: ascending numbers of training pictures, each about twice the one before; at least two.
        correct: results of the same pictures for each of them.
        seed: seed of the bootstrap.
    """
    results = np.stack(correct, axis=1)
    # A picture has one of few patterns of results, so a draw of weights is a draw of the shares of the patterns.
    patterns = np.array(list(itertools.product([False, True], repeat=results.shape[1])))
    counts = np.array([np.sum((results == pattern).all(axis=1)) for pattern in patterns])
    draws = len(results) * np.random.default_rng(seed).dirichlet(counts + 1 / len(patterns), NUM_DRAWS)
    # The first row is the sample itself.
    num_wrong = np.vstack([counts, draws]) @ ~patterns
    places = np.log2(num_train)
    gains = [_extrapolate(places[first:], num_wrong[:, first:], len(results)) for first in (0, len(places) - 2)]
    low, high = np.quantile([found[1:] for found in gains], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    accuracies = [float(found) for found in 1 - num_wrong[0] / len(results)]
    return LearningCurve(list(num_train), accuracies, float(gains[0][0]), float(low.min()), float(high.max()))


def _extrapolate(places: Float64, num_wrong: Float64, num_pictures: int) -> Float64:
    """Return the gain in accuracy from doubling the last number of training pictures, for each draw.

    Args:
        places: (sizes,) logarithms to base 2 of the numbers of training pictures.
        num_wrong: (draws, sizes) numbers of errors.
        num_pictures: number of pictures that the errors are counted on.
    """
    # Half an error more avoids the logarithm of 0.
    errors = (num_wrong + 0.5) / (num_pictures + 1)
    centred = places - places.mean()
    slopes = np.log2(errors) @ centred / (centred @ centred)
    # Rounded, so that a gain of 0 has no rounding error and no sign.
    return np.asarray(np.round(errors[:, -1] * (1 - 2.0**slopes), 9) + 0.0)
