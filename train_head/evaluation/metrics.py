"""Metrics of a head: a few for each training, and a full evaluation for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array
from train_head.data.split import Targets
from train_head.evaluation.confusion import MAX_DENSE_CLASSES, count_cells, describe_cells
from train_head.evaluation.curves import Areas, choose_thresholds, measure_areas
from train_head.evaluation.uncertainty import compute_interval

LABEL_THRESHOLD = 0.5
"""Smallest probability at which a label is predicted, if pictures have several labels."""
NUM_BINS = 10
NUM_DETAILED = 20
"""Number of classes with thresholds, if there are more than `MAX_DENSE_CLASSES` classes."""
_BLOCK_CLASSES = 64
_BLOCK_NUMBERS = 2**24
_ROUNDED_AWAY = 2.0**-25
"""Value that replaces a probability of exactly 0: in float32, 1 minus this or a smaller number is 1."""


def compute_metrics(
    targets: NDArray[np.int64], probabilities: Array, classes: Sequence[str], largest_class: int
) -> dict[str, Any]:
    """Compute the metrics of a trained head.

    Args:
        targets: (n,) int64 class numbers of the true classes.
        probabilities: (n, classes) float32.
        classes: the labels in order.
        largest_class: number of the class that is largest in training (`find_largest_class`).

    Returns:
        Ready for JSON: accuracy with its 95% interval; the largest training class and its share of the evaluated
        pictures, which is the accuracy of always predicting it; precision, recall, F1 and number of pictures of each
        class; and the confusion matrix (`describe_cells`).
    """
    predicted = predict_classes(probabilities)
    correct, pictures, num_predicted = (
        np.bincount(numbers, minlength=len(classes)) for numbers in (targets[targets == predicted], targets, predicted)
    )
    # The precision of a class that is never predicted is 0, as is the recall of one without pictures.
    precision, recall = correct / np.maximum(num_predicted, 1), correct / np.maximum(pictures, 1)
    f1 = 2 * correct / np.maximum(pictures + num_predicted, 1)
    return {
        "val_accuracy": float(np.mean(predicted == targets)),
        "val_accuracy_interval": list(compute_interval(int(correct.sum()), len(targets))),
        "largest_class": classes[largest_class],
        "largest_class_share": float(pictures[largest_class] / len(targets)),
        "per_class": {
            label: {
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "pictures": int(pictures[number]),
            }
            for number, label in enumerate(classes)
        },
        **describe_cells(count_cells(targets, predicted, len(classes)), len(classes)),
    }


def evaluate(
    targets: NDArray[np.int64], probabilities: Array, labels: Sequence[str], largest_class: int
) -> dict[str, Any]:
    """Evaluate predicted probabilities.

    Args:
        targets: (n,) int64 class numbers of the true classes, n above 0.
        probabilities: (n, classes) float32, rows that add up to 1.
        labels: the classes in order.
        largest_class: number of the class that is largest in training (`metrics.find_largest_class`).

    Returns:
        Ready for JSON:

        - `accuracy` with its 95% `accuracy_interval`, which `record_selection` widens for a selected head;
          `largest_class` and `largest_class_share`, the baseline.
        - `balanced_accuracy`, `macro_precision` and `macro_f1`: means of the recall, the precision and the F1 over the
          classes that have pictures.
        - `roc_auc` and `average_precision`: with two classes, those of the second; with more, the mean over the
          classes, each against the others. None if a class has no pictures or all of them.
        - `log_loss` in nats; `brier`, the mean squared error of the probabilities: from 0 to 1 with two classes; with
          more, the errors are summed over the classes, from 0 to 2.
        - `calibration_error`: the expected calibration error, of the second class if there are two, else of the
          predicted class; `reliability`: the bins of [0, 1] from which it is computed.
        - `confusion`, and with many classes `confusion_cells`: the confusion matrix (`describe_cells`).
        - `classes`: the metrics of each class against the others, and its `thresholds`. With more than
          `MAX_DENSE_CLASSES` classes, only the `NUM_DETAILED` with the lowest average precision have thresholds.
    """
    counted = compute_metrics(targets, probabilities, labels, largest_class)
    classes = _evaluate_classes(targets, probabilities, counted["per_class"])
    decisive = classes[1:] if len(classes) == 2 else classes
    present = [found for found in classes if found["num_pictures"]]
    events = list_events(targets, probabilities)
    return {
        "num_pictures": len(targets),
        "accuracy": counted["val_accuracy"],
        "accuracy_interval": counted["val_accuracy_interval"],
        "largest_class": counted["largest_class"],
        "largest_class_share": counted["largest_class_share"],
        "balanced_accuracy": float(np.mean([found["recall"] for found in present])),
        "macro_precision": float(np.mean([found["precision"] for found in present])),
        "macro_f1": float(np.mean([found["f1"] for found in present])),
        "roc_auc": _average([found["roc_auc"] for found in decisive]),
        "average_precision": _average([found["average_precision"] for found in decisive]),
        "log_loss": compute_loss(targets, probabilities),
        "brier": compute_brier(targets, probabilities),
        "calibration_error": measure_error(events),
        **{name: counted[name] for name in ("confusion", "confusion_cells") if name in counted},
        "classes": classes,
        "reliability": measure_reliability(events),
    }


def find_largest_class(train_targets: NDArray[np.int64], num_classes: int) -> int:
    """Return the number of the class with the most training pictures; in a tie, the first of them.

    Always predicting this class is the baseline. It depends only on the training pictures, as a head does.
    """
    return int(np.bincount(train_targets, minlength=num_classes).argmax())


def compute_loss(targets: Targets, probabilities: Array) -> float:
    """Compute the mean cross-entropy in nats."""
    return float(np.mean(list_losses(targets, probabilities)))


def list_losses(targets: Targets, probabilities: Array) -> NDArray[np.float64]:
    """Return each row's cross-entropy in nats, (n,); a probability of 0 counts as 2⁻²⁵, 17.3 nats.

    With several labels a picture, it is the mean over the labels.
    """
    if targets.ndim == 1:
        return _take_logarithm(probabilities[np.arange(len(targets)), targets].astype(np.float64))
    given = probabilities.astype(np.float64)
    return np.asarray(_take_logarithm(np.where(targets, given, 1 - given)).mean(axis=1), np.float64)


def _take_logarithm(given: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0 - np.log(np.where(given > 0, np.minimum(given, 1), _ROUNDED_AWAY)), np.float64)


def predict_classes(probabilities: Array) -> NDArray[np.int64]:
    """Return the most probable class of each row; in a tie, the first of them."""
    return np.asarray(np.argmax(probabilities, axis=1), np.int64)


def find_correct(targets: Targets, probabilities: Array) -> NDArray[np.bool_]:
    """Return whether each row is predicted correctly, (n,); with several labels a picture, all of them must be."""
    if targets.ndim == 1:
        return np.asarray(predict_classes(probabilities) == targets)
    return np.asarray(((probabilities >= LABEL_THRESHOLD) == targets).all(axis=1))


def _list_columns(probabilities: Array, numbers: Sequence[int]) -> Iterator[NDArray[np.float64]]:
    """Yield columns of the probabilities, (n,) each, after rows of float32 were scaled to add up to exactly 1."""
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # Reading single columns of a large matrix is slow, and a float64 copy of all is twice its size.
    for start in range(0, len(numbers), _BLOCK_CLASSES):
        block = probabilities[:, list(numbers[start : start + _BLOCK_CLASSES])].T
        yield from np.ascontiguousarray(block, np.float64) / sums


def _evaluate_classes(
    targets: NDArray[np.int64], probabilities: Array, per_class: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Evaluate each class against the others; `per_class` is that of `compute_metrics`."""
    numbers = range(len(per_class))
    areas = [
        measure_areas(targets == number, column)
        for number, column in zip(numbers, _list_columns(probabilities, numbers), strict=True)
    ]
    detailed = _choose_detailed(areas)
    thresholds = {
        number: choose_thresholds(targets == number, column)
        for number, column in zip(detailed, _list_columns(probabilities, detailed), strict=True)
    }
    return [
        {
            "label": label,
            "num_pictures": row["pictures"],
            **{name: row[name] for name in ("precision", "recall", "f1")},
            "roc_auc": area and area.roc_auc,
            "average_precision": area and area.average_precision,
            "thresholds": thresholds.get(number, []),
        }
        for number, (label, row), area in zip(numbers, per_class.items(), areas, strict=True)
    ]


def _choose_detailed(areas: Sequence[Areas | None]) -> list[int]:
    """Choose the classes that have thresholds: all, or those with the lowest average precision if there are many."""
    precision_of = {number: area.average_precision for number, area in enumerate(areas) if area}
    if len(areas) <= MAX_DENSE_CLASSES:
        return list(precision_of)
    return sorted(sorted(precision_of, key=lambda number: precision_of[number])[:NUM_DETAILED])


def compute_brier(targets: NDArray[np.int64], probabilities: Array) -> float:
    """Compute the mean squared error of the probabilities (Brier 1950); with two classes, that of the second."""
    total, step = 0.0, max(1, _BLOCK_NUMBERS // probabilities.shape[1])
    for start in range(0, len(targets), step):
        errors = probabilities[start : start + step].astype(np.float64)
        errors /= errors.sum(axis=1, keepdims=True)
        errors[np.arange(len(errors)), targets[start : start + step]] -= 1
        total += float(np.sum(errors**2))
    return total / len(targets) / (2 if probabilities.shape[1] == 2 else 1)


class Events(NamedTuple):
    """Events whose frequency is compared with their probability.

    They are the second class of two, or a correct prediction; of several labels, each label of each picture.
    """

    given: NDArray[np.float64]
    """(n,) predicted probability of each event."""
    happened: NDArray[np.bool_]
    """(n,)."""


def list_events(targets: Targets, probabilities: Array) -> Events:
    """List the events of a calibration; the arguments are those of `list_losses`."""
    if targets.ndim == 2:
        return Events(probabilities.ravel().astype(np.float64), targets.ravel() == 1)
    happened, given = targets == 1, probabilities[:, 1]
    if probabilities.shape[1] > 2:
        happened, given = predict_classes(probabilities) == targets, probabilities.max(axis=1)
    return Events(given.astype(np.float64) / probabilities.sum(axis=1, dtype=np.float64), happened)


def find_bins(given: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of the bin of each probability; a bin includes its upper edge."""
    return np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], given)


def measure_reliability(events: Events) -> list[dict[str, Any]]:
    """Compare probability and frequency in bins of equal width; empty bins are left out."""
    bins = find_bins(events.given)
    counts, means, shares = (np.bincount(bins, weights, NUM_BINS) for weights in (None, events.given, events.happened))
    return [
        {
            "low": place / NUM_BINS,
            "high": (place + 1) / NUM_BINS,
            "num_pictures": int(counts[place]),
            "mean_probability": float(means[place] / counts[place]),
            "share_right": float(shares[place] / counts[place]),
        }
        for place in np.flatnonzero(counts).tolist()
    ]


def measure_error(events: Events) -> float:
    """Measure the expected calibration error: the mean difference of probability and frequency over the bins."""
    bins = find_bins(events.given)
    gaps = np.bincount(bins, events.given, NUM_BINS) - np.bincount(bins, events.happened, NUM_BINS)
    return float(np.abs(gaps).sum()) / len(bins)


def _average(areas: Sequence[float | None]) -> float | None:
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if len(known) == len(areas) else None
