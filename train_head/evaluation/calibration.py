"""Calibration: agreement of predicted probabilities with observed frequencies, and a temperature that improves it.

A temperature T divides the logits of a head: the probabilities p become proportional to p^(1/T). The predicted class
never changes. T is fitted on the validation pictures, so the calibration error on the same pictures is too low; the
error that is reported is cross-fitted, with T for each fold from the other folds.

Source: Guo et al. 2017, On calibration of modern neural networks. Bröcker and Smith 2007, Increasing the reliability of
reliability diagrams, for the errors that a perfectly calibrated head would have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array
from train_head.data.split import Targets
from train_head.evaluation.metrics import (
    NUM_BINS,
    compute_brier,
    compute_loss,
    find_bins,
    list_events,
    measure_error,
    measure_reliability,
)
from train_head.solvers.scaling import fit_temperature

MIN_PICTURES = 50
"""Smallest number of validation pictures on which a temperature is fitted. With fewer, the temperature is 1."""
NUM_FOLDS = 5
NUM_DRAWS = 1000
"""Number of sets of labels drawn from the probabilities, to find the errors of a perfectly calibrated head."""
CONFIDENCE = 0.95
_LEAST = float(np.finfo(np.float32).smallest_subnormal)
"""Replaces a probability of 0, the result of rounding, before its logarithm."""


def choose_temperature(targets: Targets, probabilities: Array) -> float:
    """Choose the temperature of a head from its validation probabilities.

    Args:
        targets: (n,) class numbers of the true classes, or (n, classes) labels.
        probabilities: (n, classes) float32.

    Returns:
        The fitted temperature; 1 with fewer than `MIN_PICTURES` pictures, or if temperatures do not lower the
        cross-fitted log loss, because the probabilities are already calibrated or the pictures are too few. With
        several labels a picture always 1.
    """
    if len(targets) < MIN_PICTURES or targets.ndim == 2:
        return 1.0
    if compute_loss(targets, _cross_fit(targets, probabilities)) >= compute_loss(targets, probabilities):
        return 1.0
    return fit_temperature(_compute_logarithms(probabilities), targets)


def apply_temperature(probabilities: Array, temperature: float) -> Array:
    """Return the probabilities, (n, classes) float32, after the logits were divided by a temperature.

    The class with the highest probability stays the same, also if rounding makes probabilities equal.
    """
    if temperature == 1:
        return probabilities
    logits = _compute_logarithms(probabilities) / temperature
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)
    predicted = probabilities.argmax(axis=1)
    for row in np.flatnonzero(found.argmax(axis=1) != predicted):
        found[row, predicted[row]] = np.nextafter(found[row].max(), np.float32(1))
    return found


def describe_calibration(targets: Targets, probabilities: Array, temperature: float) -> dict[str, Any]:
    """Describe the calibration of a head on its validation pictures.

    Args:
        targets: (n,) class numbers of the true classes.
        probabilities: (n, classes) float32, after the temperature was applied.
        temperature: temperature that was fitted on these pictures; 1 for none.

    Returns:
        Ready for JSON, to be added to an evaluation:

        - `before_calibration`: `calibration_error`, `log_loss`, `brier` and `reliability` without the temperature;
          None if the temperature is 1.
        - `calibration`: the `temperature`; the cross-fitted expected calibration `error`; `expected_error`, the range
          of errors, 2.5 to 97.5%, of a perfectly calibrated head with such probabilities on as many pictures; and
          `is_consistent`, whether the error is at most the upper end of this range.
    """
    before = None
    fitted = probabilities
    if temperature != 1:
        plain = apply_temperature(probabilities, 1 / temperature)
        before = _measure(targets, plain)
        fitted = _cross_fit(targets, plain)
    events = list_events(targets, fitted)
    error, expected = measure_error(events), _draw_errors(events.given)
    low, high = np.quantile(expected, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    calibration = {
        "temperature": temperature,
        "error": error,
        "expected_error": [float(low), float(high)],
        "is_consistent": error <= float(high),
    }
    return {"before_calibration": before, "calibration": calibration}


def _measure(targets: NDArray[np.int64], probabilities: Array) -> dict[str, Any]:
    events = list_events(targets, probabilities)
    return {
        "log_loss": compute_loss(targets, probabilities),
        "brier": compute_brier(targets, probabilities),
        "calibration_error": measure_error(events),
        "reliability": measure_reliability(events),
    }


def _cross_fit(targets: NDArray[np.int64], probabilities: Array) -> Array:
    """Apply to each fold of the pictures, (n, classes), the temperature that is fitted on the other folds."""
    # The pictures of each class are dealt to the folds in turn.
    folds = np.empty(len(targets), np.int64)
    folds[np.argsort(targets, kind="stable")] = np.arange(len(targets)) % NUM_FOLDS
    logarithms, found = _compute_logarithms(probabilities), np.empty_like(probabilities)
    for fold in range(NUM_FOLDS):
        held_out = folds == fold
        temperature = fit_temperature(logarithms[~held_out], targets[~held_out])
        found[held_out] = apply_temperature(probabilities[held_out], temperature)
    return found


def _draw_errors(given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (draws,) calibration errors of events that happen with exactly the given probabilities, (n,)."""
    rng, bins = np.random.default_rng(0), find_bins(given)
    sums = np.bincount(bins, given, NUM_BINS)
    counts = np.stack([np.bincount(bins[rng.random(len(given)) < given], None, NUM_BINS) for _ in range(NUM_DRAWS)])
    return np.asarray(np.abs(counts - sums).sum(axis=1) / len(given), np.float64)


def _compute_logarithms(probabilities: Array) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities.astype(np.float64), _LEAST))
