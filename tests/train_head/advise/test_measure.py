"""Leave-one-out results on stored features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.cuts import open_store
from tests.train_head.synthetic import FINGERPRINT, draw_features, list_paths, make_store
from train_head.advise.measure import classify_left_out, measure_parts, read_inputs
from train_head.reduction.decompose import reduce_gram
from train_head.reduction.matrix import open_workers

pytestmark = pytest.mark.unit


def draw_rows(num_rows: int, num_inputs: int, num_classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(num_rows + num_inputs)
    numbers = np.arange(num_rows) % num_classes
    rows = generator.standard_normal((num_rows, num_inputs)).astype(np.float32)
    rows[:, 0] += numbers
    return rows, numbers


@pytest.mark.parametrize("num_classes", [2, 3])
def test_classify_left_out_of_wide_rows_equals_that_of_their_reduced_rows(num_classes: int) -> None:
    rows, numbers = draw_rows(30, 50, num_classes)
    wide = rows.astype(np.float64)
    found = classify_left_out(rows, numbers, num_classes)
    assert (found == classify_left_out(reduce_gram(wide @ wide.T), numbers, num_classes)).all()


def test_classify_left_out_separable_classes_is_right_and_random_labels_are_not() -> None:
    rows, numbers = draw_rows(60, 5)
    rows[:, 0] += 20 * numbers
    assert classify_left_out(rows, numbers, 2).all()
    random = np.random.default_rng(0).permutation(numbers)
    assert classify_left_out(rows, random, 2).mean() < 0.7


def test_classify_left_out_equal_features_and_single_pictures_give_no_error() -> None:
    assert not classify_left_out(np.ones((5, 3), np.float32), np.arange(5), 5).any()
    assert not classify_left_out(np.eye(2, dtype=np.float32), np.arange(2), 2).any()


def test_measure_parts_classifies_every_picture_at_each_number_of_pictures() -> None:
    rows, numbers = draw_rows(80, 4)
    whole = classify_left_out(rows, numbers, 2)
    sizes, results = measure_parts(rows, numbers, 2, whole)
    assert sizes == [20, 40, 80]
    assert [len(found) for found in results] == [80, 80, 80]
    assert results[-1] is whole


@pytest.mark.parametrize(("num_rows", "expected"), [(5, [5]), (25, [12, 25])])
def test_measure_parts_of_few_pictures_leaves_out_small_parts(num_rows: int, expected: list[int]) -> None:
    rows, numbers = draw_rows(num_rows, 3)
    assert measure_parts(rows, numbers, 2, numbers == 0)[0] == expected


def test_read_inputs_joins_cut_layers_with_equal_mean_squares_in_the_order_of_the_hashes(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 6, "train/dogs": 6})
    stores = []
    for cut, factor in (("mixed5", 1), ("mixed7", 100)):
        features = factor * draw_features(paths, (3,))
        make_store(tmp_path / cut, paths, features=features, fingerprint=replace(FINGERPRINT, cut=cut))
        stores.append(open_store(tmp_path / cut))
    hashes = sorted(example.content_hash for example in stores[0].examples)
    with open_workers() as workers:
        joined = read_inputs(stores, hashes, workers)
        alone = read_inputs(stores[:1], hashes, workers)
        flat = read_inputs([make_store(tmp_path / "flat", paths)], hashes, workers)
    assert joined.shape == (12, 6)
    assert np.mean(joined[:, :3] ** 2) == pytest.approx(1, rel=1e-5)
    assert np.mean(joined[:, 3:] ** 2) == pytest.approx(1, rel=1e-5)
    assert alone == pytest.approx(stores[0].read(sorted(stores[0].examples, key=lambda e: e.content_hash)))
    # Features of 12 numbers for 12 pictures are not reduced.
    assert flat.shape == (12, 12)
