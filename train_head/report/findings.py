"""Findings of a report: conclusions drawn from a run's numbers, apart from their wording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from math import isfinite
from typing import Any

import numpy as np

from train_head.evaluation.confusion import read_cells
from train_head.report.classes import has_many_classes
from train_head.solvers.history import Epoch

MIN_IMPROVEMENT = 0.01
"""Smallest relative decrease of the validation loss in the last epoch that makes more epochs worth trying."""
MIN_RISE = 0.1
"""Smallest relative rise of the validation loss above its minimum that counts as overfitting at any accuracy."""
NUM_CONFUSIONS, NUM_CONFUSIONS_OF_MANY = 5, 20
"""Largest numbers of kinds of error that are listed, with few and with many classes."""
IMBALANCE = 1.5
"""Smallest ratio of the largest to the smallest training class that makes class weights worth trying."""


class Caution(StrEnum):
    """Reason to be careful with the accuracy."""

    DIVERGED = "diverged"
    SELECTED = "selected"
    BELOW_BASELINE = "below_baseline"
    NEAR_BASELINE = "near_baseline"
    LEAKED = "leaked"
    PENDING = "pending"


class Fit(StrEnum):
    """State of a head after training."""

    STILL_IMPROVING = "still_improving"
    OVERFITTING = "overfitting"
    BALANCED = "balanced"


class Confidence(StrEnum):
    """Comparison of the mean probability of the predicted class with the accuracy."""

    OVER = "over_confident"
    UNDER = "under_confident"
    CONSISTENT = "consistent"


@dataclass(frozen=True)
class Confusion:
    """A kind of error: pictures of one class that were predicted as another."""

    label: str
    predicted: str
    count: int
    num_pictures: int
    """Validation pictures of the true class."""


@dataclass(frozen=True)
class FitFinding:
    """State of a head after training, with the numbers behind it."""

    fit: Fit
    gap: float
    """Training accuracy minus validation accuracy, -1 to 1, dropout off."""
    lowest_epoch: int
    """Epoch of the lowest validation loss."""
    lowest_loss: float
    rise: float
    """Validation loss of the kept epoch relative to the lowest, minus 1."""


def find_cautions(metrics: Mapping[str, Any], evaluation: Mapping[str, Any], num_candidates: int) -> list[Caution]:
    """Find the reasons to be careful with a run's accuracy.

    A head is near the baseline if the interval of its accuracy contains the accuracy of always predicting the
    largest class, and below it if the whole interval is lower.
    """
    (low, high), baseline = evaluation["accuracy_interval"], evaluation["largest_class_share"]
    applies = {
        Caution.DIVERGED: bool(metrics.get("diverged")),
        Caution.SELECTED: num_candidates > 1,
        Caution.BELOW_BASELINE: high < baseline,
        Caution.NEAR_BASELINE: low <= baseline <= high,
        Caution.LEAKED: bool(metrics.get("num_leaked")),
        Caution.PENDING: bool(metrics.get("num_pending")),
    }
    return [caution for caution, is_found in applies.items() if is_found]


def judge_fit(
    history: Sequence[Epoch], kept_epoch: int, train_accuracy: float, evaluation: Mapping[str, Any]
) -> FitFinding:
    """Judge whether a head overfits or could improve with more epochs.

    A head still improves if its last epoch was kept and lowered the validation loss by `MIN_IMPROVEMENT`. It overfits
    if its training accuracy is above the interval of its validation accuracy, or its validation loss is `MIN_RISE`
    above the lowest one.
    """
    losses = [row.val_loss for row in history]
    kept = losses[kept_epoch - 1]
    lowest = min(loss for loss in losses if isfinite(loss))
    rise = kept / lowest - 1 if lowest > 0 else 0.0
    improves = 1 < kept_epoch == len(history) and kept == lowest and kept <= losses[-2] * (1 - MIN_IMPROVEMENT)
    overfits = train_accuracy > evaluation["accuracy_interval"][1] or rise >= MIN_RISE
    fit = Fit.STILL_IMPROVING if improves else Fit.OVERFITTING if overfits else Fit.BALANCED
    return FitFinding(fit, train_accuracy - evaluation["accuracy"], losses.index(lowest) + 1, lowest, rise)


def judge_confidence(mean_confidence: float, evaluation: Mapping[str, Any]) -> Confidence:
    """Compare the mean probability of the predicted class with the interval of the accuracy."""
    low, high = evaluation["accuracy_interval"]
    if low <= mean_confidence <= high:
        return Confidence.CONSISTENT
    return Confidence.OVER if mean_confidence > high else Confidence.UNDER


def find_confusions(evaluation: Mapping[str, Any], count: int = NUM_CONFUSIONS) -> list[Confusion]:
    """Find the most frequent kinds of error, most frequent first; in a tie, the larger share of the class."""
    classes, cells = evaluation["classes"], read_cells(evaluation)
    errors = cells[cells[:, 0] != cells[:, 1]]
    num_pictures = np.array([row["num_pictures"] for row in classes])[errors[:, 0]]
    return [
        Confusion(classes[true]["label"], classes[predicted]["label"], number, classes[true]["num_pictures"])
        for true, predicted, number in errors[np.lexsort((num_pictures, -errors[:, 2]))[:count]].tolist()
    ]


def collect_findings(
    metrics: Mapping[str, Any],
    history: Sequence[Epoch],
    evaluation: Mapping[str, Any],
    num_candidates: int,
    mean_confidence: float,
) -> dict[str, Any]:
    """Collect the findings of a report, ready for JSON. With several labels a picture, no errors and no confidence.

    Args:
        metrics: the run's metrics.
        history: its epochs.
        evaluation: its evaluation on the validation pictures, as `train_head.evaluation.metrics.evaluate` returns it.
        num_candidates: heads and epochs that this head was selected from.
        mean_confidence: mean probability of the predicted class, 0 to 1.
    """
    fit = judge_fit(history, metrics["kept_epoch"], metrics["train_accuracy"], evaluation)
    if metrics.get("ridge"):
        # It has no epochs, and fits its training pictures closely with any penalty.
        fit = replace(fit, fit=Fit.BALANCED)
    found = {"cautions": find_cautions(metrics, evaluation, num_candidates), **asdict(fit)}
    if evaluation.get("is_multi_label"):
        # No label is predicted instead of another, and the accuracy has no probability to compare it with.
        return found | {"confidence": None, "confusions": [], "num_confused_pairs": 0}
    num_confusions = NUM_CONFUSIONS_OF_MANY if has_many_classes(evaluation) else NUM_CONFUSIONS
    cells = read_cells(evaluation)
    return {
        **found,
        "confidence": judge_confidence(mean_confidence, evaluation),
        "mean_confidence": mean_confidence,
        "confusions": [asdict(error) for error in find_confusions(evaluation, num_confusions)],
        "num_confused_pairs": int(np.sum(cells[:, 0] != cells[:, 1])),
    }


def is_imbalanced(num_by_label: Mapping[str, int]) -> bool:
    """Return whether the classes of training differ in size by `IMBALANCE` or more."""
    return max(num_by_label.values()) >= IMBALANCE * min(num_by_label.values())
