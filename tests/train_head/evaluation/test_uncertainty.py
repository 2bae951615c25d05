"""Confidence intervals of accuracies, also of selected heads."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from benchmarks.selection import CASES, draw_noise, measure_coverage
from train_head.config import TrainConfig
from train_head.evaluation.uncertainty import (
    Interval,
    Selection,
    compute_interval,
    describe_accuracy,
    describe_fits,
    describe_interval,
    format_percent,
    format_share,
    record_selection,
)

pytestmark = pytest.mark.unit
METRICS = {"val_accuracy": 0.9, "num_validation": 100, "num_train": 800, "largest_class_share": 0.5}


@pytest.mark.parametrize(("right", "num"), [(394, 400), (0, 10), (10, 10), (1, 3), (1, 1), (99_000, 100_000)])
def test_compute_interval_of_one_head_equals_wilson(right: int, num: int) -> None:
    expected = binomtest(right, num).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(compute_interval(right, num), expected, atol=1e-12)


@pytest.mark.parametrize("num_candidates", [2, 24, 400, 2_000_000])
@pytest.mark.parametrize(("right", "num"), [(394, 400), (0, 10), (10, 10), (1, 3), (1, 1), (9_900, 10_000)])
def test_compute_interval_of_a_selected_head_equals_clopper_pearson_with_bonferroni(
    right: int, num: int, num_candidates: int
) -> None:
    chance = 0.05 / num_candidates / 2
    low = beta.ppf(chance, right, num - right + 1) if right else 0.0
    high = beta.isf(chance, right + 1, num - right) if right < num else 1.0
    np.testing.assert_allclose(compute_interval(right, num, num_candidates), [low, high], atol=1e-9)


def test_compute_interval_of_a_fraction_rounds_outwards() -> None:
    low, high = compute_interval(38.5, 40, 10)
    assert (low, high) == (compute_interval(38, 40, 10)[0], compute_interval(39, 40, 10)[1])
    # 0.7 * 10 is a little less than 7.
    assert compute_interval(0.7 * 10, 10, 3) == compute_interval(7, 10, 3)


@pytest.mark.parametrize(
    ("name", "num_heads", "num_pictures"),
    [*((name, 24, 40) for name in CASES), ("noise", 100, 200), ("alike, 90 to 95 %", 100, 200)],
)
def test_compute_interval_of_a_selected_head_covers_its_true_accuracy(
    name: str, num_heads: int, num_pictures: int
) -> None:
    found = measure_coverage(CASES[name], num_heads, num_pictures, 400)
    assert found.allowed >= 0.95


def test_compute_interval_of_one_head_is_too_narrow_for_the_best_of_many() -> None:
    found = measure_coverage(draw_noise, 100, 200, 400)
    assert found.optimism > 0.05
    assert found.plain < 0.5 < 0.95 <= found.allowed


def test_interval_format_rounds_outwards() -> None:
    assert Interval(0.80129, 0.91231).format() == "0.8012 to 0.9124"
    assert Interval(0.8, 0.9).format() == "0.8000 to 0.9000"
    assert Interval(0.80129, 0.91231).format_percent() == "80.12% to 91.24%"
    assert Interval(0.0, 1.0).format_percent() == "0.00% to 100.00%"


def test_format_share_and_percent_give_0_and_1_only_for_exact_values() -> None:
    assert [format_share(share) for share in (None, 0.0, 1e-5, 0.5, 0.99996, 1.0)] == [
        "–", "0.0000", "<0.0001", "0.5000", ">0.9999", "1.0000",
    ]  # fmt: skip
    assert [format_percent(share) for share in (0.0, 1e-4, 0.5, 0.9996, 1.0)] == [
        "0.0%", "<0.1%", "50.0%", ">99.9%", "100.0%",
    ]  # fmt: skip


def test_selection_counts_heads_times_epochs_and_survives_json() -> None:
    selection = Selection(24, 20, "val_accuracy")
    assert selection.num_candidates == 480
    assert Selection.read({"selection": json.loads(json.dumps(asdict(selection)))}) == selection
    assert Selection.read({}) == Selection.read({"selection": None}) == Selection()
    assert Selection.read({"selection": {"num_heads": 3, "num_epochs": 1, "metric": "x"}}).num_candidates == 3
    assert Selection(40, 1, "val_accuracy", 961).num_candidates == 961
    assert Selection().describe() == ""


def test_selection_of_epochs_counts_planned_epochs_with_patience() -> None:
    def choose(**options: Any) -> int:
        return Selection.of_epochs(TrainConfig(Path("s"), Path("r"), **options)).num_candidates

    assert choose(epochs=30) == 1
    assert choose(epochs=30, patience=3) == 30
    assert choose(epochs=30, patience=3, unfreeze_from="mixed7", fine_tune_epochs=10) == 40


def test_record_selection_widens_only_the_validation_intervals() -> None:
    test = {"accuracy_interval": [0.7, 0.8]}
    metrics = METRICS | {"evaluation": {"accuracy": 0.9, "accuracy_interval": [0.8, 0.95]}, "test": test}
    found = record_selection(metrics, Selection(24))
    expected = list(compute_interval(90, 100, 24))
    assert found["val_accuracy_interval"] == found["evaluation"]["accuracy_interval"] == expected
    assert found["selection"]["num_heads"] == 24
    assert found["test"] == test
    assert record_selection(METRICS, Selection())["selection"] is None
    assert record_selection(METRICS, Selection())["val_accuracy_interval"] == list(compute_interval(90, 100))


def test_describe_accuracy_and_interval_give_baseline_interval_and_selection() -> None:
    assert {"0.9000", "0.5000"} <= set(re.findall(r"0\.\d{4}", describe_accuracy(METRICS)))
    assert describe_interval(record_selection(METRICS, Selection())) == "0.8256 to 0.9448"
    selection = Selection(num_epochs=20, metric="val_loss")
    text = describe_interval(record_selection(METRICS, selection))
    assert text.startswith(compute_interval(90, 100, 20).format())
    assert selection.describe() in text


@pytest.mark.parametrize(
    ("sizes", "numbers"),
    [
        ([600, 600], ["0.8500", "0.0707", "2", "600", "800"]),
        ([599, 601], ["0.8500", "0.0707", "2", "599", "601", "800"]),
        ([800, 800], ["0.8500", "0.0707", "2", "800"]),
    ],
)
def test_describe_fits_of_folds_gives_mean_deviation_and_sizes(sizes: list[int], numbers: list[str]) -> None:
    folds = {"val_accuracies": [0.9, 0.8], "mean": 0.85, "std": 0.0707, "num_train": sizes, "num_planned": 2}
    assert re.findall(r"[\d.]*\d", describe_fits("folds", METRICS | {"folds": folds})) == numbers


def test_describe_fits_of_repeats_gives_the_completed_of_the_planned() -> None:
    repeats = {"val_accuracies": [0.9, 0.8], "mean": 0.85, "std": 0.0707, "num_planned": 3}
    assert re.findall(r"[\d.]*\d", describe_fits("repeats", METRICS | {"repeats": repeats})) == [
        "0.8500",
        "0.0707",
        "2",
        "3",
    ]
