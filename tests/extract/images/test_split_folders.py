"""Names of folders for training, validation and test."""

from __future__ import annotations

import pytest

from extract.images.split_folders import are_parts, find_splits, has_unlabelled_name

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "train", ["train", "Training", "training_set", "train-set", "seg_train", "Training Data", "trainval"]
)
@pytest.mark.parametrize(
    ("other", "split"),
    [
        *(
            ("val", "validation"),
            ("Valid", "validation"),
            ("VALIDATION", "validation"),
            ("validation_set", "validation"),
        ),
        *(("test", "test"), ("testing", "test"), ("test_set", "test"), ("seg_test", "test"), ("Testing Data", "test")),
        *(("testset", "test"), ("TestImages", "test"), ("valdata", "validation"), ("test-pictures", "test")),
    ],
)
def test_find_splits_recognizes_usual_names(train: str, other: str, split: str) -> None:
    assert find_splits([train, other, "runs"]) == {train: "train", other: split}


@pytest.mark.parametrize(
    "names",
    [
        ["asl_alphabet_train", "asl_alphabet_test"],
        ["train2017", "val2017"],
        ["fruits-360 Training", "fruits-360 Test"],
    ],
)
def test_find_splits_accepts_other_words_that_all_splits_share(names: list[str]) -> None:
    assert list(find_splits(names)) == names


@pytest.mark.parametrize(
    "names",
    [
        ["cats", "test"],
        ["val", "test"],
        ["train_station", "test_tube"],
        ["strain", "latest"],
        ["train_test", "cats"],
        [],
    ],
)
def test_find_splits_of_names_without_a_training_folder_is_empty(names: list[str]) -> None:
    assert find_splits(names) == {}


@pytest.mark.parametrize(
    ("name", "expected"), [("test1", True), ("seg_pred", True), ("Unlabeled", True), ("owls", False), ("train1", False)]
)
def test_has_unlabelled_name(name: str, expected: bool) -> None:
    assert has_unlabelled_name(name) is expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["images", "annotations"], True),
        (["images_001", "images_002"], True),
        (["Part 1", "Part 2"], True),
        (["grade1", "grade2"], False),
        (["1", "2"], False),
        (["photo", "sketch"], False),
        (["mask", "no mask"], False),
        (["blurred images", "sharp images"], False),
    ],
)
def test_are_parts(names: list[str], expected: bool) -> None:
    assert are_parts(names) == expected
