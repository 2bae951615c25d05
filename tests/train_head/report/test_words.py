"""What a report says in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from train_head.evaluation.evaluate import evaluate
from train_head.evaluation.uncertainty import compute_interval, format_share
from train_head.report.duplicates import MAX_PICTURES
from train_head.report.words import (
    count_exact,
    count_near,
    count_wrong,
    describe_areas,
    describe_curves,
    describe_title,
    format_similarity,
    list_thresholds,
    list_warnings,
    summarize,
)
from train_head.runs.tables import Prediction
from train_head.solvers.history import Epoch


def make_evaluation(num_right: int, num: int = 100, num_candidates: int = 1) -> dict[str, Any]:
    targets = np.arange(num) % 2
    called = np.where(np.arange(num) < num_right, targets, 1 - targets)
    found = asdict(evaluate(targets, np.eye(2, dtype=np.float32)[called] * 0.8 + 0.1, ["cats", "dogs"], 0))
    return found | {"accuracy_interval": list(compute_interval(num_right, num, num_candidates))}


def test_summarize_counts_what_is_right_and_gives_the_interval() -> None:
    metrics = {"repeats": {"val_accuracies": [0.9, 0.8], "mean": 0.85, "std": 0.0707, "num_planned": 3}}
    assert summarize(metrics, make_evaluation(90)) == (
        "90 of 100 validation pictures classified correctly (90.0%). On other pictures of the same kind expect 82.5% "
        "to 94.5%. With other seeds: 0.8500 ± 0.0707 (mean and standard deviation over 2 of 3 seeds, same pictures)."
    )


def test_summarize_of_folds_gives_their_sizes_and_why_two_are_worse() -> None:
    folds = {"val_accuracies": [0.9, 0.8], "mean": 0.85, "std": 0.0707, "num_train": [599, 601]}
    text = summarize({"folds": folds, "num_train": 800}, make_evaluation(90))
    assert "each trained on 599 to 601 pictures, fewer than the 800 of the kept head: expect lower accuracies" in text
    assert "expect lower" not in summarize({"folds": folds, "num_train": 600}, make_evaluation(90))


@pytest.mark.parametrize(
    ("num_right", "words"),
    [(40, ["worse than"]), (50, ["cannot be distinguished"]), (59, ["cannot be distinguished"]), (70, [])],
)
def test_warnings_compare_the_interval_with_guessing(num_right: int, words: list[str]) -> None:
    # Wilson's interval of 40 in 100 ends at 0.498, that of 59 begins at 0.492.
    found = list_warnings({}, make_evaluation(num_right))
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_warnings_of_a_chosen_head_compare_the_interval_that_allows_for_the_choice() -> None:
    # 70 of 100 is above guessing alone, and not as the best of ten thousand.
    metrics = {"selection": {"num_heads": 500, "num_epochs": 20, "metric": "val_accuracy"}}
    chosen, guessing = list_warnings(metrics, make_evaluation(70, num_candidates=10_000))
    assert "the best of 500 heads and up to 20 epochs of each" in chosen
    assert "cannot be distinguished" in guessing
    assert "this interval allows for the choice" in summarize(metrics, make_evaluation(70, num_candidates=10_000))


def test_warnings_name_leaks_and_pending_pictures() -> None:
    leaks, pending = list_warnings({"num_leaked": 3, "num_pending": 1200}, make_evaluation(90))
    assert leaks.startswith("3 validation pictures were trained on too, byte for byte")
    assert pending.startswith("1,200 pictures of the folder had no features yet")


@pytest.mark.parametrize("trial", ["repeat 0", "repeat 3", "fold 1 of repeat 0"])
def test_warning_of_a_loss_that_was_no_number_names_the_trial_and_whether_this_head_is_of_it(trial: str) -> None:
    diverged = {"trial": trial, "epoch": 7, "losses": "nan (validation: nan)", "kept_epoch": 6}
    (found,) = list_warnings({"diverged": diverged, "kept_epoch": 6}, make_evaluation(90))
    assert found.startswith(f"The loss of {trial} became nan (validation: nan) in epoch 7")
    assert ("this head is that of epoch 6" in found) is (trial == "repeat 0")
    assert ("is not affected" in found) is (trial != "repeat 0")


def test_describe_areas_names_the_classes_that_are_drawn() -> None:
    targets = np.arange(80) % 8
    labels = [f"c{number}" for number in range(8)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(8), 80).astype(np.float32)
    evaluation = asdict(evaluate(targets, probabilities, labels, 0))
    assert "of the 6 classes with most validation pictures, of 8" in describe_areas(evaluation, labels, range(6))
    assert "for each class against the others" in describe_areas(evaluation, labels, range(8))
    gone = asdict(evaluate(targets % 3, probabilities, labels, 0))
    assert "of the 3 classes that have validation pictures, of 8" in describe_areas(gone, labels, range(3))


def test_thresholds_intervals_allow_for_their_choice() -> None:
    rng = np.random.default_rng(3)
    targets = np.arange(200) % 2
    second = np.clip(0.5 + 0.25 * (2 * targets - 1) + rng.normal(0, 0.2, 200), 0.01, 0.99)
    probabilities = np.stack([1 - second, second], axis=1).astype(np.float32)
    evaluation = asdict(evaluate(targets, probabilities, ["cats", "dogs"], 0))
    rows = list_thresholds(evaluation, {})
    assert [row[0] for row in rows] == ["cats"] * 4 + ["dogs"] * 4
    for row in rows:
        place, number = float(row[2]), ["cats", "dogs"].index(row[0])
        predicted, truths = probabilities[:, number] >= place, targets == number
        right = int((predicted & truths).sum())
        assert row[3] == format_share(right / predicted.sum())
        assert row[4] == compute_interval(right, int(predicted.sum()), 10_001).format()
        assert row[6] == compute_interval(right, 100, 10_001).format()


def test_title_of_many_classes_names_the_first() -> None:
    assert describe_title(["cats", "dogs"]) == "cats or dogs"
    assert describe_title([f"c{number}" for number in range(1000)]) == "c0, c1, c2, c3, c4 and 995 more classes"


def test_similarity_below_the_limit_is_never_shown_as_on_it() -> None:
    assert format_similarity(0.7499) == "0.749"
    assert (format_similarity(0.75), format_similarity(1.0), format_similarity(0.7499, 2)) == ("0.750", "1.000", "0.74")


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
    assert count_wrong([right, wrong], 1) == "1 of 2 were classified incorrectly:"
    assert count_wrong([wrong] * 30, 24) == (
        "30 of 30 were classified incorrectly; the 24 whose true class has the lowest probability:"
    )


def test_counts_of_duplicates_speak_of_none_one_and_many() -> None:
    assert count_exact(0, 50) == "No held-out picture was trained on too, byte for byte."
    assert count_exact(1, 50).startswith("1 held-out picture was trained on too")
    assert count_exact(60, 50).endswith("; the first 50:")
    assert count_near(0, 0.5).startswith("No validation picture is nearly the same")
    assert count_near(1, 0.5).startswith("1 validation picture is nearly the same")
    assert count_near(2, 0.5).startswith("2 validation pictures are nearly the same")
    assert f"more than {MAX_PICTURES:,}" in count_near(None, 0.0)


def test_count_near_of_pictures_that_are_all_alike_says_so() -> None:
    assert "to the nearest other is 0.50. The pairs" in count_near(3, 0.5)
    assert "to the nearest other is 0.93, so all pictures of this kind are alike" in count_near(3, 0.93)
