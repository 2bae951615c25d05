"""Thresholds of an exported model that predicts several labels: the probability from which it predicts each label."""

from __future__ import annotations

import numpy as np

from base.errors import UsageError
from train_head.evaluation.curves import choose_thresholds
from train_head.evaluation.metrics import LABEL_THRESHOLD
from train_head.runs.read import Run

BEST_F1 = "f1"
"""Value of the option `threshold` that chooses the threshold of each label."""


def check_threshold(run: Run, threshold: str) -> None:
    """Raise UsageError for a threshold that is neither `f1` nor between 0 and 1, or for a run that needs none."""
    if threshold != BEST_F1 and not 0 < _parse(threshold) < 1:
        expected = f"a number above 0 and below 1, or {BEST_F1}"
        raise UsageError("--threshold", expected, repr(threshold), f"Leave it out for {LABEL_THRESHOLD}")
    if not run.is_multi_label and (threshold == BEST_F1 or _parse(threshold) != LABEL_THRESHOLD):
        expected = "a run with several labels for each picture"
        raise UsageError("--threshold", expected, "one with one class for each picture", "Leave the option out")


def choose_label_thresholds(run: Run, threshold: str) -> list[float]:
    """Choose the threshold of each label of a run.

    `f1` chooses those with the best F1 on the validation pictures, which makes their metrics on these pictures
    optimistically biased. A label that no validation picture has, or that all have, gets `LABEL_THRESHOLD`.

    Args:
        run: the run.
        threshold: a checked value of the option `threshold`.
    """
    if threshold != BEST_F1:
        return [_parse(threshold)] * len(run.classes)
    targets, probabilities = run.read_probabilities()
    found = []
    for truth, column in zip(targets.T == 1, probabilities.T.astype(np.float64), strict=True):
        is_known = 0 < truth.sum() < len(truth)
        found.append(choose_thresholds(truth, column)[0]["threshold"] if is_known else LABEL_THRESHOLD)
    return found


def _parse(threshold: str) -> float:
    """Return a threshold as a number; NaN if it is none."""
    try:
        return float(threshold)
    except ValueError:
        return float("nan")
