"""Split and folds of pictures with several labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from base.errors import HeadstartError, UsageError
from features.labels import join_labels
from features.store import Example
from tests.errors import raises
from tests.train_head.synthetic import hash_text, make_example
from train_head.data.folds import split_into_folds
from train_head.data.split import Split, split_examples

pytestmark = pytest.mark.unit


def make_examples(label_sets: Sequence[str], split: str = "") -> list[Example]:
    """Make an example for each text, whose characters are its labels."""
    return [
        make_example(f"all/{split}{number}.jpg")._replace(label=join_labels(labels), split=split)
        for number, labels in enumerate(label_sets)
    ]


def split_all(examples: Sequence[Example], group_of: Mapping[bytes, bytes] | None = None) -> Split:
    find = None if group_of is None else lambda _: group_of
    return split_examples(examples, 0.25, find_groups=find, is_multi_label=True)


def list_hashes(examples: Sequence[Example]) -> set[bytes]:
    return {example.content_hash for example in examples}


def test_split_of_label_sets_has_the_share_of_each_label() -> None:
    examples = make_examples(["a"] * 40 + ["ab"] * 20 + ["c"] * 8 + [""] * 12 + ["bc"] * 4)
    found = split_all(examples)
    counts = found.count_labels(found.validation)
    assert found.classes == ["a", "b", "c"]
    assert (counts["a"], counts["b"], counts["c"]) == (15, 6, 3)
    assert sum(not example.label for example in found.validation) == 3
    assert split_all(list(reversed(examples))) == found


def test_split_of_label_sets_keeps_copies_and_groups_together() -> None:
    examples = make_examples(["a"] * 20 + ["b"] * 20)
    copies = [example._replace(path=f"copy-{example.path}") for example in examples[:5]]
    found = split_all([*examples, *copies])
    assert list_hashes(found.train).isdisjoint(list_hashes(found.validation))
    first = examples[0].content_hash
    group_of = {example.content_hash: first for example in examples[:6]}
    found = split_all(examples, group_of)
    assert len({example.content_hash in list_hashes(found.validation) for example in examples[:6]}) == 1


def test_split_encodes_label_sets_as_0_and_1() -> None:
    examples = make_examples(["ab", "", "b", "a", "b", "a", "ab", ""])
    found = split_all(examples)
    assert found.encode(examples[:4]).tolist() == [[1, 1], [0, 0], [0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        pytest.param(["", "", ""], [""], id="no label"),
        pytest.param(["a", "a", ""], ["a"], id="one label"),
        pytest.param(["a", "b", ""], ["c"], id="label only in validation"),
        pytest.param(["ab", "ab", "a"], ["b"], id="label on every training picture"),
    ],
)
def test_split_of_label_sets_that_cannot_be_trained_on_fails(train: list[str], validation: list[str]) -> None:
    examples = [*make_examples(train, "train"), *make_examples(validation, "validation")]
    with raises(HeadstartError, where="the training pictures"):
        split_examples(examples, 0.2, is_multi_label=True)


def test_split_of_label_sets_with_a_label_that_validation_lacks_is_allowed() -> None:
    examples = [*make_examples(["a", "b", "c", ""], "train"), *make_examples(["a"], "validation")]
    assert split_examples(examples, 0.2, is_multi_label=True).classes == ["a", "b", "c"]


def test_split_of_one_picture_without_any_for_validation_fails() -> None:
    with raises(HeadstartError, where="the store"):
        split_all(make_examples(["ab"]))


def test_folds_of_label_sets_hold_out_each_picture_once_with_every_label() -> None:
    split = split_all(make_examples(["a", "ab", "b", "c", "", "bc"] * 10))
    folds = split_into_folds(split, 5)
    held_out = [example.content_hash for fold in folds for example in fold.validation]
    assert sorted(held_out) == sorted(list_hashes([*split.train, *split.validation]))
    for fold in folds:
        assert fold.is_multi_label
        counts = fold.count_labels(fold.validation)
        assert all(abs(counts[label] - wanted) <= 1 for label, wanted in {"a": 4, "b": 6, "c": 4}.items())


def test_folds_of_label_sets_need_two_pictures_of_each_label() -> None:
    examples = [*make_examples(["a", "b", "", "c"] * 3, "train"), *make_examples(["a", "b"], "validation")]
    rare = examples[0]._replace(label="a|rare", content_hash=hash_text("rare"))
    split = split_examples([*examples, rare], 0.2, is_multi_label=True)
    with raises(UsageError, where="--folds"):
        split_into_folds(split, 3)
    with raises(UsageError, where="--folds"):
        split_into_folds(split, 40)
