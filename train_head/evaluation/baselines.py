"""Baselines to compare a head with: the largest class, and logistic regression on pooled features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.pooled import pool_store
from features.split import encode_labels
from features.store import FeatureStore
from train_head.data.batches import Array
from train_head.data.folds import split_into_folds
from train_head.data.split import Split
from train_head.evaluation.metrics import list_losses, predict_classes

MAJORITY, LOGISTIC = "largest class", "logistic regression"
MAX_ITERATIONS = 10_000


@dataclass(frozen=True)
class Baseline:
    """Accuracy and losses of a simple predictor."""

    name: str
    val_accuracy: float
    losses: NDArray[np.float64]
    """(validation pictures,) cross-entropy in nats."""
    fold_accuracies: list[float]
    """Accuracy of each fold; empty without folds."""


def measure_baselines(store: FeatureStore, split: Split, num_folds: int) -> list[Baseline]:
    """Measure both baselines on the validation pictures and on the same folds as the heads.

    The regression is `sklearn.linear_model.LogisticRegression` with its defaults and `MAX_ITERATIONS`, on standardised
    channel means.

    Args:
        store: the features.
        split: training and validation examples.
        num_folds: number of folds, 0 for none.
    """
    pooled = pool_store(store) if len(store.feature_shape) == 3 else store
    examples = [*split.train, *split.validation]
    features = pooled.read(examples).reshape(len(examples), -1).astype(np.float32)
    row_of = {example.path: row for row, example in enumerate(examples)}
    found: dict[str, list[tuple[float, NDArray[np.float64]]]] = {MAJORITY: [], LOGISTIC: []}
    for part in [split, *(split_into_folds(split, num_folds) if num_folds else [])]:
        targets = encode_labels(part.train, split.classes)
        truth = encode_labels(part.validation, split.classes)
        train, held_out = (
            features[[row_of[example.path] for example in examples]] for examples in (part.train, part.validation)
        )
        shares = np.bincount(targets, minlength=len(split.classes)) / len(targets)
        guesses = np.tile(shares, (len(truth), 1)).astype(np.float32)
        for name, probabilities in ((MAJORITY, guesses), (LOGISTIC, _fit_logistic(train, targets, held_out))):
            accuracy = float(np.mean(predict_classes(probabilities) == truth))
            found[name].append((accuracy, list_losses(truth, probabilities)))
    return [
        Baseline(name, *measured[0], [accuracy for accuracy, _ in measured[1:]]) for name, measured in found.items()
    ]


def _fit_logistic(features: Array, targets: NDArray[np.int64], others: Array) -> Array:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        # scikit-learn takes class numbers for measured values if there are few pictures of each class.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        return np.asarray(model.fit(features, targets).predict_proba(others), np.float32)
