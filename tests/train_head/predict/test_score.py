"""Accuracy with the class folders as labels, apart for the training pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from train_head.predict.score import Score

pytestmark = pytest.mark.unit


def score_pictures(*pictures: tuple[str, str, bool], is_multi_label: bool = False) -> Score:
    score = Score(["cats", "dogs"], is_multi_label=is_multi_label)
    for image, label, is_training in pictures:
        score.add(Path(image), label, is_training=is_training)
    return score


def test_score_counts_training_pictures_apart() -> None:
    score = score_pictures(("cats/a.jpg", "cats", False), ("cats/b.jpg", "dogs", False), ("dogs/c.jpg", "dogs", True))
    assert score.to_json() == {"accuracy": 0.5, "num_accuracy": 2, "training_accuracy": 1.0, "num_training": 1}


@pytest.mark.parametrize(
    ("is_training", "kinds"), [(True, {"training_accuracy", "num_training"}), (False, {"accuracy", "num_accuracy"})]
)
def test_score_of_one_kind_has_only_its_accuracy(is_training: bool, kinds: set[str]) -> None:
    score = score_pictures(("cats/a.jpg", "cats", is_training))
    assert score.to_json().keys() == kinds
    assert score.describe()


def test_score_with_a_picture_outside_class_folders_has_no_accuracy() -> None:
    score = score_pictures(("cats/a.jpg", "cats", True), ("b.jpg", "cats", False), ("cats/c.jpg", "cats", False))
    assert score.to_json() == {}
    assert score.describe() == ""


def test_score_of_several_labels_has_no_accuracy() -> None:
    assert score_pictures(("cats/a.jpg", "cats", False), is_multi_label=True).to_json() == {}
