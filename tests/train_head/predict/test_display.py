"""Display of predictions in a notebook, and the distance beside its limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.base.test_notebook import Page
from tests.train_head.predict.fake import make_card
from train_head.predict.prediction import Predictions, format_distance, predict_labels

pytestmark = pytest.mark.unit


def test_format_distance_has_the_limit_if_there_is_one() -> None:
    assert format_distance(237.4, 2678.0) == ["237 of at most 2,678"]
    assert format_distance(237.4, None) == ["237"]
    assert format_distance(None, None) == []


def test_display_has_columns_for_label_probability_and_distance_and_the_accuracy_as_title() -> None:
    card = make_card(outlier_threshold=10.0)
    found = Predictions(card.classes)
    found.outlier_threshold = card.outlier_threshold
    for name, distance in (("cats/a.jpg", 3.0), ("dogs/b.jpg", 4.0)):
        found.append(predict_labels(Path(name), np.array([0.75, 0.25, 0], np.float32), distance, card))
    texts = Page(found._repr_html_()).texts
    assert texts[0] == found.score.describe() != ""
    assert texts[1:] == [
        "picture", "label", "probability", "distance",
        "cats/a.jpg", "cats", "0.7500", "3 of at most 10",
        "dogs/b.jpg", "cats", "0.7500", "4 of at most 10",
    ]  # fmt: skip
    assert Page(found[1:]._repr_html_()).texts[-1] == "4 of at most 10"
