"""What a report says in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from train_head.evaluation import evaluate
from train_head.report.duplicates import MAX_PICTURES
from train_head.report.words import count_exact, count_near, count_wrong, describe_curves, list_warnings, summarize
from train_head.run import Prediction
from train_head.solvers.history import Epoch


def make_evaluation(num_right: int, num: int = 100) -> dict[str, Any]:
    targets = np.arange(num) % 2
    called = np.where(np.arange(num) < num_right, targets, 1 - targets)
    return asdict(evaluate(targets, np.eye(2, dtype=np.float32)[called] * 0.8 + 0.1, ["cats", "dogs"]))


def test_summarize_counts_what_is_right_and_gives_the_interval() -> None:
    metrics = {"repeats": {"val_accuracies": [0.9, 0.8], "mean": 0.85, "std": 0.0707}}
    assert summarize(metrics, make_evaluation(90)) == (
        "Of 100 validation pictures it called 90 by their name. On other pictures of the same kind expect 82.6% to "
        "94.5%. Over 2 seeds: 0.8500 ± 0.0707."
    )


@pytest.mark.parametrize(("num_right", "warned"), [(50, True), (59, True), (70, False)])
def test_warnings_say_where_a_head_cannot_be_told_from_guessing(num_right: int, warned: bool) -> None:
    found = list_warnings({}, make_evaluation(num_right))
    assert any("cannot be told from always naming the largest class" in text for text in found) is warned


def test_warnings_name_leaks_pending_pictures_and_a_loss_that_was_no_number() -> None:
    metrics = {"num_leaked": 3, "num_pending": 1200, "diverged": {"losses": "nan (validation: nan)", "epoch": 7}}
    assert list_warnings(metrics, make_evaluation(90)) == [
        "The loss became nan (validation: nan) in epoch 7; an earlier epoch is kept.",
        "3 validation pictures were trained on too, byte for byte: the accuracy is flattered.",
        "1,200 pictures of the folder had no features yet, and were left out.",
    ]


def test_describe_curves_gives_the_gap_and_since_when_it_overfits() -> None:
    history = [Epoch(n, 1.0, 0.5, loss, 0.8, 0.1) for n, loss in enumerate((0.5, 0.4, 0.6), 1)]
    metrics = {"kept_epoch": 3, "train_accuracy": 0.95, "train_loss": 0.1}
    assert describe_curves(metrics, history) == (
        "After epoch 3 of 3 training accuracy is 0.9500 with dropout off, validation accuracy 0.8000: a gap of 0.1500. "
        "Loss: 0.1000 and 0.6000. Validation loss was lowest in epoch 2 (0.4000): since then it overfits."
    )
    assert "overfits" not in describe_curves({**metrics, "kept_epoch": 2}, history)


def test_count_wrong_says_how_many_are_shown() -> None:
    right, wrong = Prediction("a", "cats", "cats", {}), Prediction("b", "cats", "dogs", {})
    assert count_wrong([right, wrong], 1) == "1 of 2 were called something else:"
    assert count_wrong([wrong] * 30, 24) == (
        "30 of 30 were called something else; the 24 whose true class got the least:"
    )


def test_counts_of_duplicates_speak_of_none_one_and_many() -> None:
    assert count_exact(0, 50) == "No held-out picture was trained on too, byte for byte."
    assert count_exact(1, 50).startswith("1 held-out picture was trained on too")
    assert count_exact(60, 50).endswith("flatters the accuracy; the first 50:")
    assert count_near(0, 0.5).startswith("No validation picture is nearly the same")
    assert count_near(1, 0.5).startswith("1 validation picture is nearly the same")
    assert count_near(2, 0.5).startswith("2 validation pictures are nearly the same")
    assert f"more than {MAX_PICTURES:,}" in count_near(None, 0.0)


def test_count_near_of_pictures_that_are_all_alike_says_so() -> None:
    assert "have 0.50 in the middle. The pairs" in count_near(3, 0.5)
    assert "have 0.93 in the middle, so pictures of this kind are alike altogether" in count_near(3, 0.93)
