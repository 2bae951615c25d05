"""Labels to check: planted wrong labels, copies, near-duplicates and outliers, and sets that are too small to check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from base.terminal import Console
from features.cuts import list_cuts
from features.store import Example, FeatureStore
from tests.features.stores import fill_store
from tests.train_head.synthetic import hash_text, make_store
from train_head.data.split import Split
from train_head.evaluation import label_check
from train_head.evaluation.confident import MIN_PICTURES, find_contradicted, score_labels
from train_head.evaluation.label_check import check_labels
from train_head.evaluation.label_issues import CheckedLabels, IssueKind, LabelIssue, find_far
from train_head.evaluation.neighbours import list_contents, load_neighbours
from train_head.evaluation.pooled import PooledFeatures

pytestmark = pytest.mark.unit
CLASSES = ["ants", "bees", "cats"]
NUM_CHANNELS = 12


def draw(numbers: ArrayLike, seed: int = 0, distance: float = 4) -> NDArray[np.float32]:
    """Draw features around one centre for each class."""
    centres = 10 + distance * np.eye(NUM_CHANNELS)[np.asarray(numbers)]
    drawn: NDArray[np.float32] = np.random.default_rng(seed).normal(centres).astype(np.float32)
    return drawn


def name_paths(numbers: Sequence[int], classes: Sequence[str] = CLASSES) -> list[str]:
    """Name a picture of each class number; every fourth one is for validation."""
    splits = ["validation" if row % 4 == 3 else "train" for row in range(len(numbers))]
    return [
        f"{split}/{classes[number]}/{row:04}.jpg"
        for row, (split, number) in enumerate(zip(splits, numbers, strict=True))
    ]


def split_by_folder(examples: Sequence[Example]) -> Split:
    train, validation = ([example for example in examples if example.split == name] for name in ("train", "validation"))
    return Split(train, validation, "folder validation/")


def check(store: FeatureStore, console: Console, split: Split | None = None) -> CheckedLabels:
    split = split or split_by_folder(store.examples)
    pooled = PooledFeatures(store, list_contents([*split.train, *split.validation]))
    return check_labels(split, pooled, load_neighbours(pooled, console), console)


def test_find_contradicted_follows_the_rule_of_confident_learning() -> None:
    sure, unsure = [[0.9, 0.1, 0.0]] * 5, [[0.6, 0.3, 0.1]] * 5
    others = [[0.1, 0.8, 0.1]] * 10 + [[0.0, 0.2, 0.8]] * 10
    # The thresholds of the classes are 0.67, 0.69 and 0.8.
    rows = [[0.2, 0.79, 0.01], [0.3, 0.65, 0.05], [0.72, 0.2, 0.08], [0.05, 0.1, 0.85]]
    probabilities = np.array([*sure, *unsure, *others, *rows], np.float32)
    numbers = np.array([0] * 10 + [1] * 10 + [2] * 10 + [0, 0, 1, 1])
    found = find_contradicted(probabilities, numbers)
    assert found[:30].tolist() == [-1] * 30
    # The second is not probable enough for its best class.
    assert found[30:].tolist() == [1, -1, 0, 2]


def test_find_contradicted_checks_no_label_of_a_tiny_class() -> None:
    numbers = np.array([0] * 8 + [1] * (MIN_PICTURES - 1))
    probabilities = np.tile(np.array([[0.99, 0.01]], np.float32), (len(numbers), 1))
    assert (find_contradicted(probabilities, numbers) == -1).all()


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("num_pictures", [150, 20])
def test_score_labels_contradicts_flipped_labels_only(num_classes: int, num_pictures: int) -> None:
    truth = np.arange(num_pictures) % num_classes
    features = draw(truth, distance=8)
    if num_pictures < NUM_CHANNELS * 2:
        # More channels than pictures: the fit uses the span of the pictures.
        features = np.concatenate([features] * 8, axis=1)
    flipped = [0, num_pictures // 2]
    numbers = truth.copy()
    numbers[flipped] = (truth[flipped] + 1) % num_classes
    found = score_labels(lambda: iter([features[:7], features[7:]]), numbers, num_classes)
    rows = np.flatnonzero(found.suggested >= 0)
    # A picture whose probability is below the mean of its true class is not listed.
    assert 0 in rows
    assert set(rows.tolist()) <= set(flipped)
    np.testing.assert_array_equal(found.suggested[rows], truth[rows])
    np.testing.assert_array_equal(found.predicted, truth)
    assert (found.given[flipped] < 0.5).all()
    assert (found.probability[rows] > 0.5).all()


@pytest.mark.parametrize("constant", [True, False])
def test_score_labels_of_features_that_do_not_predict_the_labels_contradicts_none(constant: bool) -> None:
    features = np.ones((60, 5), np.float32) if constant else draw([0] * 60)[:, :5]
    found = score_labels(lambda: iter([features]), np.arange(60) % 2, 2)
    assert (found.suggested == -1).all()
    assert np.isfinite(found.given).all()


def test_check_labels_lists_each_planted_issue_once(tmp_path: Path, quiet: Console) -> None:
    numbers = [row % 3 for row in range(180)]
    paths, features = name_paths(numbers), draw(numbers)
    contents = [hash_text(path) for path in paths]
    # Row 0, of class 0, has the label of class 1.
    paths[0] = paths[0].replace("ants", "bees")
    # Row 4, of class 1, has a copy with the label of class 2.
    paths.append("train/cats/copy.jpg")
    contents.append(contents[4])
    # Row 8, of class 2, was saved again and labelled as class 0.
    paths.append("validation/ants/again.jpg")
    contents.append(hash_text(paths[-1]))
    # A picture of something else.
    paths.append("train/bees/shoe.jpg")
    contents.append(hash_text(paths[-1]))
    added = np.stack([features[4], features[8] + 0.01, 10 - 30 * np.eye(NUM_CHANNELS)[5]])
    store = make_store(
        tmp_path / "store", paths, features=np.concatenate([features, added])[:, None, None], contents=contents
    )
    found = check(store, quiet)
    issues = {issue.path: issue for issue in found.issues}
    assert len(issues) == len(found.issues)
    assert (issues[paths[0]].label, issues[paths[0]].suggested) == ("bees", "ants")
    assert issues[paths[0]].kind is IssueKind.WRONG_LABEL
    assert issues[paths[4]] == LabelIssue(paths[4], "bees", "cats", IssueKind.COPY, 1.0, "train/cats/copy.jpg")
    assert issues["train/cats/copy.jpg"].other == paths[4]
    assert issues["validation/ants/again.jpg"].suggested == "cats"
    assert issues["train/bees/shoe.jpg"].kind is IssueKind.OUTLIER
    assert issues["train/bees/shoe.jpg"].score > 1
    assert len(issues) == 5
    assert found.accuracy is not None
    assert found.accuracy > 0.95
    assert (found.num_pictures, found.limits) == (181, [])


def test_check_labels_of_near_duplicates_lists_the_less_probable_one_with_the_other(
    tmp_path: Path, quiet: Console
) -> None:
    numbers = [row % 2 for row in range(60)]
    # Without a difference between the classes, only the similarity shows the error.
    features = draw([0] * 60)
    features[7] = features[0] + 0.01
    store = make_store(tmp_path / "store", paths := name_paths(numbers), features=features[:, None, None])
    found = check(store, quiet)
    (issue,) = found.issues
    assert issue.kind is IssueKind.NEAR_DUPLICATE
    assert {issue.path, issue.other} == {paths[0], paths[7]}
    assert issue.label != issue.suggested
    assert (found.num_pictures, len(found.limits)) == (0, 1)


@pytest.mark.parametrize(
    ("numbers", "num_pictures"),
    [
        ([0, 1, 0, 1, 0], 0),
        ([0, 0, 1, 1, 2, 2, 0, 1, 2], 0),
        ([0] * 30 + [1] * 30 + [2], 60),
    ],
)
def test_check_labels_of_tiny_classes_checks_only_the_others(
    numbers: list[int], num_pictures: int, tmp_path: Path, quiet: Console
) -> None:
    store = make_store(tmp_path / "store", name_paths(numbers), features=draw(numbers)[:, None, None])
    found = check(store, quiet)
    assert (found.issues, found.num_pictures) == ([], num_pictures)
    assert len(found.limits) == 1


def test_check_labels_again_computes_nothing_until_a_label_changes(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [row % 2 for row in range(60)]
    store = make_store(tmp_path / "store", name_paths(numbers), features=draw(numbers)[:, None, None])
    first = check(store, quiet)
    with monkeypatch.context() as patch:
        patch.setattr(label_check, "compute_scores", lambda *_: pytest.fail("scores were computed again"))
        assert check(store, quiet) == first
    examples = [
        example._replace(label="bees") if example.path.endswith("0000.jpg") else example for example in store.examples
    ]
    split = split_by_folder(examples)
    (issue,) = check(store, quiet, split).issues
    assert (issue.path[-8:], issue.suggested) == ("0000.jpg", "ants")


def test_check_labels_of_pictures_with_several_labels_states_that_it_checks_none(
    tmp_path: Path, quiet: Console
) -> None:
    store = make_store(tmp_path / "store", name_paths([0, 1] * 8), features=draw([0, 1] * 8)[:, None, None])
    split = replace(split_by_folder(store.examples), is_multi_label=True)
    found = check(store, quiet, split)
    assert (found.issues, found.num_pictures, len(found.limits)) == ([], 0, 1)


def test_pooled_features_of_several_cuts_are_those_of_the_last(tmp_path: Path) -> None:
    for cut in ("mixed6", "mixed7"):
        fill_store(tmp_path / cut, range(6), cut=cut)
    assert list_cuts(tmp_path) == ["mixed6", "mixed7"]
    first, last = FeatureStore(tmp_path / "mixed6"), FeatureStore(tmp_path / "mixed7")
    pooled = PooledFeatures(first, first.examples)
    np.testing.assert_array_equal(
        pooled.values, last.read(last.examples).mean(axis=(1, 2), dtype=np.float32).astype(np.float16)
    )
    np.testing.assert_array_equal(np.concatenate([*pooled.read_blocks()]), pooled.values)
    assert pooled.store.fingerprint.cut == "mixed7"


def test_find_far_lists_only_values_beyond_the_fence() -> None:
    distances = np.append(np.random.default_rng(0).uniform(1, 2, 100), [np.nan, 0.0, 200.0]).astype(np.float32)
    assert find_far(distances) == [102]
    assert find_far(np.full(40, 3.0)) == []
    assert find_far(distances[-10:]) == []
