"""Findings of a report: conclusions from a run's numbers, and the commands that follow from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from train_head.evaluation.metrics import evaluate
from train_head.evaluation.uncertainty import compute_interval
from train_head.report.commands import suggest_calibration_change, suggest_fit_change
from train_head.report.findings import (
    Caution,
    Confidence,
    Confusion,
    Fit,
    find_cautions,
    find_confusions,
    is_imbalanced,
    judge_confidence,
    judge_fit,
)
from train_head.solvers.history import Epoch

pytestmark = pytest.mark.unit
OPTIONS: dict[str, Any] = {"epochs": 20, "dropout": 0.2, "l2": 0.0, "patience": 0}


def make_evaluation(num_correct: int, num: int = 100, num_candidates: int = 1) -> dict[str, Any]:
    """Evaluate a head that classifies the first pictures correctly, with probabilities of 0.9."""
    targets = np.arange(num) % 2
    predicted = np.where(np.arange(num) < num_correct, targets, 1 - targets)
    found = evaluate(targets, np.eye(2, dtype=np.float32)[predicted] * 0.8 + 0.1, ["cats", "dogs"], 0)
    return found | {"accuracy_interval": list(compute_interval(num_correct, num, num_candidates))}


def make_history(*val_losses: float) -> list[Epoch]:
    return [Epoch(n, 0.5, 0.9, loss, 0.9, 0.1) for n, loss in enumerate(val_losses, 1)]


@pytest.mark.parametrize(
    ("num_correct", "cautions"),
    [(40, [Caution.BELOW_BASELINE]), (50, [Caution.NEAR_BASELINE]), (59, [Caution.NEAR_BASELINE]), (70, [])],
)
def test_find_cautions_compares_the_interval_with_the_baseline(num_correct: int, cautions: list[Caution]) -> None:
    # Wilson's interval of 40 in 100 ends at 0.498, and that of 59 in 100 begins at 0.492.
    assert find_cautions({}, make_evaluation(num_correct), 1) == cautions


def test_find_cautions_of_a_selected_head_uses_the_wider_interval() -> None:
    # 70 of 100 is above the baseline for one head, but not for the best of ten thousand.
    found = find_cautions({}, make_evaluation(70, num_candidates=10_000), 10_000)
    assert found == [Caution.SELECTED, Caution.NEAR_BASELINE]


@pytest.mark.parametrize(
    ("metrics", "caution"),
    [
        ({"num_leaked": 3}, Caution.LEAKED),
        ({"num_pending": 1200}, Caution.PENDING),
        ({"diverged": {"trial": "repeat 0"}}, Caution.DIVERGED),
    ],
)
def test_find_cautions_reads_the_metrics(metrics: dict[str, Any], caution: Caution) -> None:
    assert find_cautions(metrics, make_evaluation(90), 1) == [caution]


@pytest.mark.parametrize(
    ("losses", "kept_epoch", "train_accuracy", "fit"),
    [
        ((0.5, 0.4, 0.3), 3, 1.0, Fit.STILL_IMPROVING),
        ((0.5, 0.4, 0.3999), 3, 0.9, Fit.BALANCED),
        ((0.5, 0.4, 0.3999), 3, 1.0, Fit.OVERFITTING),
        ((0.5, 0.3, 0.34), 3, 0.9, Fit.OVERFITTING),
        ((0.5, 0.3, 0.32), 3, 0.9, Fit.BALANCED),
        ((0.5, 0.3, 0.6), 2, 0.9, Fit.BALANCED),
        ((0.5,), 1, 0.9, Fit.BALANCED),
        ((0.5, 0.4, float("nan")), 2, 0.9, Fit.BALANCED),
    ],
)
def test_judge_fit_weighs_the_gap_and_the_validation_loss(
    losses: tuple[float, ...], kept_epoch: int, train_accuracy: float, fit: Fit
) -> None:
    # The interval of 90 in 100 is 0.825 to 0.945.
    assert judge_fit(make_history(*losses), kept_epoch, train_accuracy, make_evaluation(90)).fit is fit


def test_judge_fit_returns_the_numbers_behind_the_finding() -> None:
    found = judge_fit(make_history(0.5, 0.4, 0.6), 3, 0.95, make_evaluation(80))
    assert (found.lowest_epoch, found.lowest_loss) == (2, 0.4)
    assert (found.gap, found.rise) == pytest.approx((0.15, 0.5))


@pytest.mark.parametrize(
    ("mean_confidence", "expected"),
    [(0.8, Confidence.UNDER), (0.83, Confidence.CONSISTENT), (0.94, Confidence.CONSISTENT), (0.97, Confidence.OVER)],
)
def test_judge_confidence_compares_with_the_interval(mean_confidence: float, expected: Confidence) -> None:
    assert judge_confidence(mean_confidence, make_evaluation(90)) is expected


def test_find_confusions_sorts_by_count_then_share() -> None:
    classes = [{"label": label, "num_pictures": num} for label, num in (("a", 6), ("b", 10), ("c", 4))]
    evaluation = {"classes": classes, "confusion": [[5, 1, 0], [3, 6, 1], [0, 1, 3]]}
    assert find_confusions(evaluation) == [
        Confusion("b", "a", 3, 10),
        Confusion("c", "b", 1, 4),
        Confusion("a", "b", 1, 6),
        Confusion("b", "c", 1, 10),
    ]
    assert find_confusions(evaluation, 1) == [Confusion("b", "a", 3, 10)]


@pytest.mark.parametrize(("sizes", "expected"), [((100, 150), True), ((100, 149), False), ((7, 7), False)])
def test_is_imbalanced_starts_at_a_ratio_of_one_and_a_half(sizes: tuple[int, int], expected: bool) -> None:
    assert is_imbalanced(dict(zip("ab", sizes, strict=True))) is expected


@pytest.mark.parametrize(
    ("fit", "options", "change"),
    [
        (Fit.STILL_IMPROVING, {}, {"epochs": 40}),
        (Fit.OVERFITTING, {}, {"dropout": 0.5}),
        (Fit.OVERFITTING, {"dropout": 0.5}, {"l2": 1e-4}),
        (Fit.OVERFITTING, {"dropout": 0.5, "l2": 0.01}, {"l2": 0.1}),
        (Fit.BALANCED, {}, {}),
    ],
)
def test_suggest_fit_change_follows_the_finding_and_the_options(
    fit: Fit, options: dict[str, Any], change: dict[str, Any]
) -> None:
    assert suggest_fit_change(fit, OPTIONS | options) == change


@pytest.mark.parametrize(
    ("confidence", "options", "change"),
    [
        (Confidence.UNDER, {}, {"epochs": 40}),
        (Confidence.OVER, {}, {"patience": 5}),
        (Confidence.OVER, {"patience": 3}, {"l2": 1e-4}),
        (Confidence.CONSISTENT, {}, {}),
    ],
)
def test_suggest_calibration_change_follows_the_finding_and_the_options(
    confidence: Confidence, options: dict[str, Any], change: dict[str, Any]
) -> None:
    assert suggest_calibration_change(confidence, OPTIONS | options) == change
