"""The sentences of a report, and the numbers in them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import numpy as np
import pytest

from train_head.evaluation.metrics import evaluate
from train_head.evaluation.uncertainty import Selection, compute_interval, format_share
from train_head.report.gallery import MAX_PICTURES
from train_head.report.template import make_environment
from train_head.solvers.history import Epoch

TEN_THOUSAND = {"num_heads": 500, "num_epochs": 20, "metric": "val_accuracy"}


def word(name: str, *arguments: Any) -> str:
    """What a macro of the template gives for arguments."""
    words = make_environment().get_template("words.jinja").module
    return unescape(str(getattr(words, name)(*arguments)))


def list_warnings(metrics: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    html = word("warnings", metrics, evaluation, Selection.read(metrics).describe())
    return re.findall('<p class="note">(.*?)</p>', html, re.DOTALL)


def make_evaluation(num_right: int, num: int = 100, num_candidates: int = 1) -> dict[str, Any]:
    targets = np.arange(num) % 2
    called = np.where(np.arange(num) < num_right, targets, 1 - targets)
    found = evaluate(targets, np.eye(2, dtype=np.float32)[called] * 0.8 + 0.1, ["cats", "dogs"], 0)
    return found | {"accuracy_interval": list(compute_interval(num_right, num, num_candidates))}


def test_summary_counts_what_is_right_and_gives_the_interval() -> None:
    metrics = {"repeats": {"val_accuracies": [0.9, 0.8], "mean": 0.85, "std": 0.0707, "num_planned": 3}}
    assert word("summary", metrics, make_evaluation(90), "") == (
        "90 of 100 validation pictures classified correctly (90.0%). On other pictures of the same kind expect 82.5% "
        "to 94.5%. With other seeds: 0.8500 ± 0.0707 (mean and standard deviation over 2 of 3 seeds, same pictures)."
    )


def test_summary_of_folds_gives_their_sizes_and_why_two_are_worse() -> None:
    folds = {"val_accuracies": [0.9, 0.8], "mean": 0.85, "std": 0.0707, "num_train": [599, 601]}
    text = word("summary", {"folds": folds, "num_train": 800}, make_evaluation(90), "")
    assert "each trained on 599 to 601 pictures, fewer than the 800 of the kept head: expect lower accuracies" in text
    assert "expect lower" not in word("summary", {"folds": folds, "num_train": 600}, make_evaluation(90), "")


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
    evaluation = make_evaluation(70, num_candidates=10_000)
    chosen, guessing = list_warnings({"selection": TEN_THOUSAND}, evaluation)
    assert "the best of 500 heads and up to 20 epochs of each" in chosen
    assert "cannot be distinguished" in guessing
    assert "this interval allows for the choice of X." in word("summary", {}, evaluation, "X")


def test_warnings_name_leaks_and_pending_pictures() -> None:
    leaks, pending = list_warnings({"num_leaked": 3, "num_pending": 1200}, make_evaluation(90))
    assert leaks.startswith("3 validation pictures were trained on too, byte for byte")
    assert pending.startswith("1,200 pictures of the folder had no features yet")


@pytest.mark.parametrize("trial", ["repeat 0", "repeat 3", "fold 1 of repeat 0"])
def test_warning_of_a_loss_that_was_no_number_names_the_trial_and_whether_this_head_is_of_it(trial: str) -> None:
    diverged = {"trial": trial, "epoch": 7, "losses": "nan (validation: nan)", "kept_epoch": 6}
    (found,) = list_warnings({"diverged": diverged, "kept_epoch": 6}, make_evaluation(90))
    assert found.startswith(f"The loss of {trial} became nan (validation: nan) in epoch 7")
    assert found.endswith("Try a smaller --learning-rate.")
    assert ("this head is that of epoch 6" in found) is (trial == "repeat 0")
    assert ("is not affected" in found) is (trial != "repeat 0")


def test_areas_name_the_classes_that_are_drawn() -> None:
    targets = np.arange(80) % 8
    labels = [f"c{number}" for number in range(8)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(8), 80).astype(np.float32)
    evaluation = evaluate(targets, probabilities, labels, 0)
    assert "of the 6 classes with most validation pictures, of 8," in word("areas", evaluation, labels, range(6))
    whole = word("areas", evaluation, labels, range(8))
    assert whole.startswith("ROC and precision against recall for each class against the others, over all thresholds. ")
    assert whole.endswith(f" average precision {evaluation['average_precision']:.4f}.")
    gone = evaluate(targets % 3, probabilities, labels, 0)
    assert word("areas", gone, labels, range(3)) == (
        "ROC and precision against recall of the 3 classes that have validation pictures, of 8, over all thresholds."
    )


def test_reliability_of_two_classes_and_of_more_says_what_the_line_means() -> None:
    two = word("reliability", make_evaluation(90), ["cats", "dogs"])
    assert "Above the line dogs is more frequent than predicted" in two
    assert "Above the line the head is under-confident" in word("reliability", make_evaluation(90), ["a", "b", "c"])


def test_thresholds_intervals_allow_for_their_choice() -> None:
    rng = np.random.default_rng(3)
    targets = np.arange(200) % 2
    second = np.clip(0.5 + 0.25 * (2 * targets - 1) + rng.normal(0, 0.2, 200), 0.01, 0.99)
    probabilities = np.stack([1 - second, second], axis=1).astype(np.float32)
    html = word("thresholds", evaluate(targets, probabilities, ["cats", "dogs"], 0), 1)
    rows = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall("<tr>.*?</tr>", html)][1:]
    assert [row[0] for row in rows] == ["cats"] * 4 + ["dogs"] * 4
    for row in rows:
        place, number = float(row[2]), ["cats", "dogs"].index(row[0])
        predicted, truths = probabilities[:, number] >= place, targets == number
        right = int((predicted & truths).sum())
        assert row[3] == format_share(right / predicted.sum())
        assert row[4] == compute_interval(right, int(predicted.sum()), 10_001).format()
        assert row[6] == compute_interval(right, 100, 10_001).format()


def test_title_of_many_classes_names_the_first() -> None:
    assert word("title", ["cats", "dogs"]) == "cats or dogs"
    assert word("title", [f"c{number}" for number in range(1000)]) == "c0, c1, c2, c3, c4 and 995 more classes"


def test_similarity_below_the_limit_is_never_shown_as_on_it() -> None:
    shown = [word("similarity", *each) for each in ((0.7499, 3), (0.75, 3), (1.0, 3), (0.7499, 2))]
    assert shown == ["0.749", "0.750", "1.000", "0.74"]


def test_curves_give_the_gap_and_since_when_it_overfits() -> None:
    history = [Epoch(n, 1.0, 0.5, loss, 0.8, 0.1) for n, loss in enumerate((0.5, 0.4, 0.6), 1)]
    metrics = {"kept_epoch": 3, "train_accuracy": 0.95, "train_loss": 0.1}
    assert word("curves", metrics, history) == (
        "After epoch 3 of 3 training accuracy is 0.9500 with dropout off, validation accuracy 0.8000: a gap of 0.1500. "
        "Loss: 0.1000 and 0.6000. Validation loss was lowest in epoch 2 (0.4000): since then it overfits."
    )
    assert "overfits" not in word("curves", {**metrics, "kept_epoch": 2}, history)


def test_wrong_says_how_many_are_shown() -> None:
    assert word("wrong", 1, 2, 1) == "1 of 2 were classified incorrectly:"
    assert word("wrong", 30, 30, 24) == (
        "30 of 30 were classified incorrectly; the 24 whose true class has the lowest probability:"
    )


def test_counts_of_duplicates_distinguish_none_one_and_many() -> None:
    assert word("exact", 0, 50) == "No held-out picture was trained on too, byte for byte."
    assert word("exact", 1, 50).startswith("1 held-out picture was trained on too")
    assert word("exact", 60, 50).endswith("; the first 50:")
    assert word("near", 0, 0.5).startswith("No validation picture is nearly the same")
    assert word("near", 1, 0.5).startswith("1 validation picture is nearly the same")
    assert word("near", 2, 0.5).startswith("2 validation pictures are nearly the same")
    assert f"more than {MAX_PICTURES:,}" in word("near", None, 0.0)


def test_near_of_pictures_that_are_all_alike_says_so() -> None:
    assert "to the nearest other is 0.50. The pairs" in word("near", 3, 0.5)
    assert "to the nearest other is 0.93, so all pictures of this kind are alike" in word("near", 3, 0.93)
