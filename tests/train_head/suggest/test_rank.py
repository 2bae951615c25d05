"""Ranking of pictures to label: uncertain ones first, and no copies."""

from __future__ import annotations

import numpy as np
import pytest

from train_head.predict.prediction import measure_margins
from train_head.suggest.rank import CANDIDATES_PER_PICTURE, rank_pictures

pytestmark = pytest.mark.unit


def test_measure_margins_is_the_difference_of_the_two_highest() -> None:
    rows = np.array([[0.2, 0.5, 0.3], [0.9, 0.0, 0.1]], np.float32)
    assert measure_margins(rows).tolist() == pytest.approx([0.2, 0.8])


def test_measure_margins_with_thresholds_is_the_smallest_difference_from_one() -> None:
    rows = np.array([[0.2, 0.9], [0.5, 0.8]], np.float32)
    assert measure_margins(rows, [0.6, 0.75]).tolist() == pytest.approx([0.15, 0.05])


def test_rank_pictures_spreads_the_choice_and_lists_the_smallest_margin_first() -> None:
    angles = np.array([0.0, 0.1, 1.5, 0.7, 1.4])
    features = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    margins = np.array([0.1, 0.2, 0.4, 0.3, 0.5])
    assert rank_pictures(margins, features, 2) == [0, 2]
    assert rank_pictures(margins, features, 3) == [0, 3, 2]


def test_rank_pictures_leaves_out_copies_and_certain_pictures() -> None:
    features = np.eye(12, dtype=np.float16)
    features[3] = 2 * features[2]
    margins = np.arange(12) / 12
    assert rank_pictures(margins[:4], features[:4], 4) == [0, 1, 2]
    assert max(rank_pictures(margins, features, 2)) < 2 * CANDIDATES_PER_PICTURE
    assert rank_pictures(margins[:1], features[:1], 5) == [0]


def test_rank_pictures_of_features_of_zeros_chooses_one() -> None:
    assert rank_pictures(np.array([0.4, 0.1]), np.zeros((2, 3), np.float32), 2) == [1]
