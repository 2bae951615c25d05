"""Pictures unlike the training pictures, in a report: the rates, and the most distant validation pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from train_head.runs.read import Run

NUM_DISTANT_SHOWN = 12
"""Number of the most distant validation pictures that a report shows."""


def describe_outliers(run: Run) -> dict[str, Any] | None:
    """Return the metrics of a run's detector, and its most distant validation pictures; None without a detector.

    `most_distant` has `path`, `label`, `distance` and `is_outlier` of each picture, in descending order.
    """
    detector = run.read_outliers()
    if detector is None:
        return None
    predictions = run.read_predictions()
    if len(predictions) != len(detector.validation):
        raise ValueError(f"{len(detector.validation)} distances of {len(predictions)} validation pictures")
    order = np.argsort(-detector.validation, kind="stable")[:NUM_DISTANT_SHOWN].tolist()
    found = detector.describe()
    most_distant = [
        {
            "path": predictions[row].path,
            "label": predictions[row].label,
            "distance": float(detector.validation[row]),
            "is_outlier": bool(detector.validation[row] > found["threshold"]),
        }
        for row in order
    ]
    return found | {"most_distant": most_distant}
