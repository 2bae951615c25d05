"""Paired comparisons of settings, and learning curves."""

from __future__ import annotations

import numpy as np
import pytest

from train_head.advise.statistics import (
    Correct,
    Outlook,
    compare_paired,
    count_detectable,
    extrapolate_curve,
)

pytestmark = pytest.mark.unit


def make_results(num_right: int, num_pictures: int = 100) -> Correct:
    return np.arange(num_pictures) < num_right


def test_compare_paired_has_the_p_value_of_the_exact_mcnemar_test() -> None:
    first, second = make_results(80), make_results(90)
    # Ten pictures differ, all in favour of the second: 2 / 2**10. scipy.stats.binomtest(10, 10).pvalue is the same.
    found = compare_paired(first, second)
    assert found.gain == pytest.approx(0.1)
    assert found.p_value == pytest.approx(2 / 2**10)
    assert found.is_better
    assert 0 < found.low < 0.1 < found.high
    reverse = compare_paired(second, first)
    assert reverse.gain == pytest.approx(-0.1)
    assert not reverse.is_better
    assert [reverse.low, reverse.high] == pytest.approx([-found.high, -found.low])


def test_compare_paired_of_different_pictures_counts_both_directions() -> None:
    first = np.array([True] * 3 + [False] * 9 + [True] * 88)
    second = np.array([False] * 3 + [True] * 9 + [True] * 88)
    assert compare_paired(first, second).p_value == pytest.approx(2 * (1 + 12 + 66 + 220) / 2**12)


def test_compare_paired_of_several_comparisons_widens_the_interval_and_raises_the_p_value() -> None:
    first, second = make_results(80), make_results(90)
    single, several = compare_paired(first, second), compare_paired(first, second, 10)
    assert several.p_value == pytest.approx(10 * single.p_value)
    assert several.low < single.low
    assert several.high > single.high


@pytest.mark.parametrize("num_right", [0, 50, 100])
def test_compare_paired_of_equal_results_is_not_better(num_right: int) -> None:
    found = compare_paired(make_results(num_right), make_results(num_right), 3)
    assert (found.gain, found.p_value, found.is_better) == (0, 1, False)
    assert found.low < 0 < found.high


@pytest.mark.parametrize("num_comparisons", [1, 2, 6, 50])
def test_count_detectable_is_the_smallest_significant_number(num_comparisons: int) -> None:
    count = count_detectable(num_comparisons)
    first = make_results(50)
    assert compare_paired(first, make_results(50 + count), num_comparisons).is_better
    assert not compare_paired(first, make_results(50 + count - 1), num_comparisons).is_better


def draw_results(accuracies: tuple[float, ...], num_pictures: int = 4000) -> list[Correct]:
    """Return results in which a picture that is right with few training pictures is right with more."""
    return [make_results(round(accuracy * num_pictures), num_pictures) for accuracy in accuracies]


def test_extrapolate_curve_of_a_power_law_gives_its_next_value() -> None:
    # The error falls by a fifth with each doubling: 0.25, 0.2, 0.16 and then 0.128.
    found = extrapolate_curve([100, 200, 400], draw_results((0.75, 0.8, 0.84)), seed=0)
    assert found.accuracies == pytest.approx([0.75, 0.8, 0.84])
    assert found.gain == pytest.approx(0.16 - 0.128, abs=1e-3)
    assert 0 < found.low < found.gain < found.high
    assert found.outlook is Outlook.HELPS


def test_extrapolate_curve_that_is_flat_at_a_low_error_helps_little() -> None:
    found = extrapolate_curve([100, 200, 400], draw_results((0.995, 0.996, 0.996)), seed=0)
    assert found.outlook is Outlook.LITTLE


def test_extrapolate_curve_that_became_flat_has_an_interval_with_zero() -> None:
    found = extrapolate_curve([100, 200, 400], draw_results((0.6, 0.8, 0.8), 100), seed=0)
    assert found.low <= 0 < found.high
    assert found.outlook is Outlook.UNKNOWN


def test_extrapolate_curve_of_few_pictures_without_errors_is_finite_and_uncertain() -> None:
    found = extrapolate_curve([10, 20], draw_results((1.0, 1.0), 20), seed=0)
    assert np.isfinite([found.gain, found.low, found.high]).all()
    assert found.gain == pytest.approx(0)
    assert found.outlook is Outlook.UNKNOWN


def test_extrapolate_curve_is_repeatable() -> None:
    results = draw_results((0.7, 0.75, 0.8), 60)
    assert extrapolate_curve([15, 30, 60], results, 1) == extrapolate_curve([15, 30, 60], results, 1)
