"""Baseline to compare heads with: always predicting the largest training class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train_head.data.folds import split_into_folds
from train_head.data.split import Split
from train_head.evaluation.metrics import find_correct, list_losses

MAJORITY = "largest class"


@dataclass(frozen=True)
class Baseline:
    """Accuracy and losses of a simple predictor."""

    name: str
    val_accuracy: float
    losses: NDArray[np.float64]
    """(validation pictures,) cross-entropy in nats."""
    fold_accuracies: list[float]
    """Accuracy of each fold; empty without folds."""


def measure_majority(split: Split, num_folds: int) -> Baseline:
    """Measure the baseline on the validation pictures and on the same folds as the heads.

    Its probabilities are the shares of the classes in training; with several labels a picture, it predicts the labels
    of more than half of the training pictures.

    Args:
        split: training and validation examples.
        num_folds: number of folds, 0 for none.
    """
    measured = []
    for part in [split, *(split_into_folds(split, num_folds) if num_folds else [])]:
        truth, targets = part.encode(part.validation), part.encode(part.train)
        counts = targets.sum(axis=0) if split.is_multi_label else np.bincount(targets, minlength=len(split.classes))
        guesses = np.tile(counts / len(part.train), (len(truth), 1)).astype(np.float32)
        measured.append((float(find_correct(truth, guesses).mean()), list_losses(truth, guesses)))
    return Baseline(MAJORITY, *measured[0], [accuracy for accuracy, _ in measured[1:]])
