"""Splits and folds that keep groups of near-duplicates together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from features.store import Example
from features.validation_split import choose_representatives, choose_validation
from tests.errors import raises
from tests.train_head.synthetic import make_example
from train_head.data.folds import split_into_folds
from train_head.data.split import Split, split_by_content, split_examples

pytestmark = pytest.mark.unit


def draw_groups(sizes: Sequence[int], seed: int = 0, labels: Sequence[str] = ("cats", "dogs")) -> list[list[Example]]:
    """Draw groups of the given sizes; each group has one label."""
    rng = np.random.default_rng(seed)
    return [
        [make_example(f"{labels[number % len(labels)]}/{number}-{n}.jpg", rng.bytes(32)) for n in range(size)]
        for number, size in enumerate(sizes)
    ]


def split_groups(groups: Sequence[Sequence[Example]], share: float = 0.2) -> Split:
    examples = [example for group in groups for example in group]
    hashes = [[example.content_hash for example in group] for group in groups]
    return split_examples(examples, share, (), lambda _: choose_representatives(hashes))


def list_sides(split: Split, groups: Sequence[Sequence[Example]]) -> list[set[bool]]:
    """List for each group whether its pictures are in validation."""
    held_out = {example.content_hash for example in split.validation}
    return [{example.content_hash in held_out for example in group} for group in groups]


SIZES = [1] * 100 + [2] * 40 + [3] * 20 + [7] * 10 + [25]


@pytest.mark.parametrize("seed", range(5))
def test_split_with_groups_keeps_each_group_together_and_the_share_close(seed: int) -> None:
    groups = draw_groups(SIZES, seed)
    split = split_groups(groups)
    assert all(len(sides) == 1 for sides in list_sides(split, groups))
    assert len(split.validation) / sum(SIZES) == pytest.approx(0.2, abs=0.05)
    assert len(split.train) + len(split.validation) == sum(SIZES)


@pytest.mark.parametrize("sizes", [[60] + [1] * 40, [30, 30, 30, 1, 1, 1], [1] * 200 + [50, 50], [10] * 10])
@pytest.mark.parametrize("seed", range(4))
def test_split_with_large_groups_has_the_closest_share_that_they_allow(sizes: list[int], seed: int) -> None:
    groups = draw_groups(sizes, seed)
    split = split_groups(groups)
    assert all(len(sides) == 1 for sides in list_sides(split, groups))
    # Two standard deviations of a split of single pictures, or the smallest group that could be moved.
    allowed = 2 * np.sqrt(0.16 / sum(sizes)) + (0.3 if len(sizes) < 20 else 0)
    assert abs(len(split.validation) / sum(sizes) - 0.2) <= allowed


def test_split_with_groups_does_not_depend_on_order_paths_or_the_order_of_groups() -> None:
    groups = draw_groups(SIZES)
    first = split_groups(groups)
    renamed = [[example._replace(path=f"{example.label}/x{example.path[5:]}") for example in group] for group in groups]
    again = split_groups([group[::-1] for group in renamed[::-1]])
    for mine, theirs in ((first.train, again.train), (first.validation, again.validation)):
        assert [example.content_hash for example in mine] == [example.content_hash for example in theirs]


def test_split_without_near_duplicates_equals_the_split_by_content() -> None:
    groups = draw_groups([1] * 150)
    examples = [example for group in groups for example in group]
    assert split_groups(groups).validation == split_by_content(examples, 0.2).validation


def test_split_with_groups_moves_few_pictures_if_some_are_added() -> None:
    before = draw_groups([1] * 300 + [2] * 100)
    # A third picture for twenty groups, and twenty new pictures.
    added = draw_groups([1] * 40, seed=9)
    after = [group + (added[n] if n < 20 else []) for n, group in enumerate(before)] + added[20:]
    first, again = split_groups(before), split_groups(after)
    held_out = {example.content_hash for example in again.validation}
    kept = {example.content_hash for example in first.validation}
    moved = sum((e.content_hash in held_out) != (e.content_hash in kept) for group in before for e in group)
    assert moved <= 10


def test_split_with_groups_holds_out_large_groups_as_often_as_small_ones() -> None:
    placed = Counter[int]()
    for seed in range(300):
        groups = draw_groups([8, 1, 1, 1, 1, 1, 1, 1], seed)
        hashes = [[example.content_hash for example in group] for group in groups]
        representative = choose_representatives(hashes).get(hashes[0][0], b"")
        placed[int(int.from_bytes(representative[:8], "big") / 2**64 < 0.2)] += 1
    assert placed[1] / 300 == pytest.approx(0.2, abs=0.07)


def test_split_with_groups_gives_every_class_to_both_sides() -> None:
    for seed in range(20):
        groups = draw_groups([4, 4, 1, 1, 2, 2], seed)
        split = split_groups(groups)
        assert {example.label for example in split.validation} == set(split.classes) == {"cats", "dogs"}
        assert all(len(sides) == 1 for sides in list_sides(split, groups))


def test_split_of_a_class_that_is_one_group_is_refused() -> None:
    groups = draw_groups([1, 12, 1, *[1] * 9], labels=["cats"])
    groups[1] = [example._replace(label="dogs") for example in groups[1]]
    with raises(HeadstartError, where="class 'dogs'"):
        split_groups(groups)


def test_split_with_groups_and_a_validation_folder_is_refused() -> None:
    examples = [
        make_example(f"{part}/{label}/{n}.jpg") for part in ("train", "validation") for label in "ab" for n in "12"
    ]
    with raises(UsageError, where="--split"):
        split_examples(examples, 0.2, (), lambda _: {})


def test_choose_validation_counts_the_pictures_moved_for_their_class() -> None:
    rng = np.random.default_rng(0)
    examples = [make_example(f"class-{number}/{n}.jpg", rng.bytes(32)) for number in range(100) for n in range(3)]
    choice = choose_validation(examples, 0.2)
    plain = {
        example.content_hash for example in examples if int.from_bytes(example.content_hash[:8], "big") < 2**64 / 5
    }
    assert choice.num_moved == len(choice.held_out ^ plain) > 30
    assert split_by_content(examples, 0.2).num_moved == choice.num_moved


@pytest.mark.parametrize("num_folds", [2, 5])
def test_folds_keep_each_group_together_and_have_similar_sizes(num_folds: int) -> None:
    groups = draw_groups(SIZES)
    split = split_groups(groups)
    folds = split_into_folds(split, num_folds)
    for fold in folds:
        assert all(len(sides) == 1 for sides in list_sides(fold, groups))
        assert {example.label for example in fold.validation} == {"cats", "dogs"}
    sizes = [len(fold.validation) for fold in folds]
    assert sum(sizes) == sum(SIZES)
    assert max(sizes) - min(sizes) <= 6


def test_folds_with_fewer_groups_than_folds_are_refused() -> None:
    split = split_groups(draw_groups([6, 2, 6, 2, 6, 2]))
    assert len(split_into_folds(split, 3)) == 3
    with raises(UsageError, where="--folds"):
        split_into_folds(split, 4)
    assert len(split_into_folds(replace(split, group_of={}), 4)) == 4
