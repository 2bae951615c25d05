"""The order of an epoch, and the batches that are read in it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from features.store import Example, FeatureStore
from tests.train_head.made import CLASSES, draw_features, list_paths, make_example, make_store
from train_head.batches import EpochOrder, FeatureBatches, plan_epoch, read_free_memory
from train_head.config import ClassWeight

ROW_BYTES = 2 * 2 * 3 * 2
"""Of a made-up feature."""


def make_examples(rows_of_shard: dict[int, int]) -> list[Example]:
    return [
        make_example(f"cats/{shard}-{row}.jpg", shard=shard, row=row)
        for shard, rows in rows_of_shard.items()
        for row in range(rows)
    ]


def list_order(blocks: list[NDArray[np.int64]]) -> list[int]:
    return np.concatenate(blocks).tolist()  # type: ignore[no-any-return]


def plan(rows_per_block: int, seed: tuple[int, int] = (0, 0), num_examples: int = 40) -> list[int]:
    examples = make_examples(dict.fromkeys(range(1, num_examples // 10 + 1), 10))
    return list_order(plan_epoch(examples, rows_per_block, np.random.default_rng(seed)))


def read_epoch(batches: FeatureBatches, epoch: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    start = epoch * batches.num_batches
    read = [batches.read_batch(start + number) for number in range(batches.num_batches)]
    return [features for features, _, _ in read], [targets for _, targets, _ in read]


def open_batches(store: FeatureStore, *, seed: int | None = 0, memory: int | None = None) -> FeatureBatches:
    return FeatureBatches(store, store.examples, CLASSES, batch_size=5, seed=seed, memory=memory)


def name_rows(features: NDArray[np.float32], paths: list[str]) -> list[str]:
    """Says which example each row of features belongs to."""
    path_of = {row.astype(np.float32).tobytes(): path for path, row in zip(paths, draw_features(paths), strict=True)}
    return [path_of[row.tobytes()] for row in features]


@pytest.mark.parametrize("rows_per_block", [1, 7, 10, 39, 40, 1000])
@pytest.mark.parametrize("seed", [None, 0])
def test_plan_epoch_sees_each_example_once(rows_per_block: int, seed: int | None) -> None:
    examples = make_examples({1: 10, 3: 25, 7: 5})
    rng = None if seed is None else np.random.default_rng(seed)
    blocks = plan_epoch(examples, rows_per_block, rng)
    assert sorted(list_order(blocks)) == list(range(40))
    sizes = [len(block) for block in blocks]
    assert sizes[:-1] == [rows_per_block] * (len(sizes) - 1)
    assert sizes[-1] == (40 % rows_per_block or rows_per_block if rows_per_block < 40 else 40)


def test_plan_epoch_without_rng_keeps_the_examples_order() -> None:
    blocks = plan_epoch(make_examples({2: 6, 1: 6}), 5, None)
    assert [block.tolist() for block in blocks] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


@pytest.mark.parametrize("rows_per_block", [10, 40])
def test_plan_epoch_of_the_same_seed_and_epoch_is_the_same_and_of_others_another(rows_per_block: int) -> None:
    first = plan(rows_per_block, (3, 1))
    assert plan(rows_per_block, (3, 1)) == first
    assert plan(rows_per_block, (3, 2)) != first
    assert plan(rows_per_block, (4, 1)) != first


def test_plan_epoch_in_one_block_mixes_all_shards() -> None:
    shards = np.array(plan(40)) // 10
    assert all(len(set(part)) > 1 for part in np.split(shards, 8))


def test_plan_epoch_in_blocks_reads_shards_in_turn_in_an_order_drawn_for_the_epoch() -> None:
    orders = set()
    for epoch in range(20):
        order = plan(10, (0, epoch))
        shards = [number // 10 for number in order]
        runs = shards[::10]
        assert shards == [shard for shard in runs for _ in range(10)]
        assert sorted(runs) == [0, 1, 2, 3]
        orders.add(tuple(runs))
    assert len(orders) > 5


def test_plan_epoch_in_blocks_shuffles_within_each_shard() -> None:
    rows = np.array(plan(10)).reshape(4, 10) % 10
    assert all(list(block) != sorted(block) for block in rows)
    assert len({tuple(block) for block in rows}) == 4


def test_plan_epoch_with_blocks_across_shards_mixes_them_within_the_block() -> None:
    examples = make_examples(dict.fromkeys(range(1, 5), 10))
    blocks = plan_epoch(examples, 20, np.random.default_rng(0))
    for block in blocks:
        shards = [examples[number].shard for number in block]
        assert len(set(shards)) == 2
        assert shards not in (sorted(shards), sorted(shards, reverse=True))


def test_list_batches_never_crosses_a_block_and_ends_with_what_is_left() -> None:
    order = EpochOrder([np.arange(7), np.arange(7, 10)], np.arange(10))
    batches = [(number, order.blocks[number][part].tolist()) for number, part in order.list_batches(3)]
    assert batches == [(0, [0, 1, 2]), (0, [3, 4, 5]), (0, [6]), (1, [7, 8, 9])]


def test_batches_in_memory_come_in_the_planned_order_with_a_partial_last_one(
    three_classes: FeatureStore,
) -> None:
    examples = three_classes.examples[:23]
    batches = FeatureBatches(three_classes, examples, CLASSES, batch_size=5, seed=8)
    features, targets = read_epoch(batches, 2)
    order = np.random.default_rng((8, 2)).permutation(23)
    assert batches.in_memory
    assert batches.num_batches == 5
    assert [part.shape for part in features] == [(5, 2, 2, 3)] * 4 + [(3, 2, 2, 3)]
    assert [part.shape for part in targets] == [(5, 1)] * 4 + [(3, 1)]
    assert {part.dtype for part in features + targets} == {np.dtype(np.float32)}
    paths = [example.path for example in examples]
    assert name_rows(np.concatenate(features), paths) == [paths[number] for number in order]


@pytest.mark.parametrize("memory", [None, 0, ROW_BYTES * 8, ROW_BYTES * 41], ids=["all", "none", "8", "41"])
def test_batches_give_every_example_its_own_feature_and_target(three_classes: FeatureStore, memory: int | None) -> None:
    paths = [example.path for example in three_classes.examples]
    batches = open_batches(three_classes, memory=memory)
    assert batches.in_memory == (memory is None)
    for epoch in range(3):
        features, targets = read_epoch(batches, epoch)
        named = name_rows(np.concatenate(features), paths)
        assert sorted(named) == sorted(paths)
        labels = [CLASSES[int(number)] for number in np.concatenate(targets)[:, 0]]
        assert labels == [path.split("/")[-2] for path in named]


def test_batches_beyond_memory_hold_a_block_at_a_time(three_classes: FeatureStore) -> None:
    features, _ = read_epoch(open_batches(three_classes, memory=ROW_BYTES * 8), 0)
    assert [len(part) for part in features] == [5, 3] * 5 + [2]


def test_batches_beyond_memory_hold_a_batch_at_least(three_classes: FeatureStore) -> None:
    features, _ = read_epoch(open_batches(three_classes, memory=0), 0)
    assert [len(part) for part in features] == [5] * 8 + [2]


def test_batches_that_fit_exactly_are_held(three_classes: FeatureStore) -> None:
    needed = ROW_BYTES * len(three_classes.examples)
    assert open_batches(three_classes, memory=needed).in_memory
    assert not open_batches(three_classes, memory=needed - 1).in_memory


@pytest.mark.parametrize("memory", [None, ROW_BYTES * 8])
def test_batches_of_an_epoch_depend_on_seed_and_number_alone(three_classes: FeatureStore, memory: int | None) -> None:
    batches = open_batches(three_classes, memory=memory)
    in_turn = [np.concatenate(read_epoch(batches, epoch)[0]) for epoch in range(3)]
    fresh = np.concatenate(read_epoch(open_batches(three_classes, memory=memory), 2)[0])
    other = np.concatenate(read_epoch(open_batches(three_classes, memory=memory, seed=1), 2)[0])
    np.testing.assert_array_equal(fresh, in_turn[2])
    assert not np.array_equal(in_turn[1], in_turn[2])
    assert not np.array_equal(other, in_turn[2])


@pytest.mark.parametrize("memory", [None, ROW_BYTES * 7])
def test_batches_without_seed_keep_the_examples_order_in_every_epoch(
    three_classes: FeatureStore, memory: int | None
) -> None:
    paths = [example.path for example in three_classes.examples]
    batches = open_batches(three_classes, seed=None, memory=memory)
    for epoch in range(2):
        assert name_rows(np.concatenate(read_epoch(batches, epoch)[0]), paths) == paths


def test_batches_beyond_memory_can_be_read_in_any_order(three_classes: FeatureStore) -> None:
    batches = open_batches(three_classes, memory=ROW_BYTES * 8)
    features, targets = read_epoch(batches, 0)
    for number in (7, 0, 10, 7, 3):
        again = batches.read_batch(number)
        np.testing.assert_array_equal(again[0], features[number])
        np.testing.assert_array_equal(again[1], targets[number])


def test_batches_beyond_memory_read_ahead_into_the_next_epoch_change_nothing(three_classes: FeatureStore) -> None:
    # Keras does so at the end of an epoch, in a thread of its own.
    batches = open_batches(three_classes, memory=ROW_BYTES * 8)
    expected = read_epoch(open_batches(three_classes, memory=ROW_BYTES * 8), 0)[0]
    for number, features in enumerate(expected):
        batches.read_batch(batches.num_batches + number)
        np.testing.assert_array_equal(batches.read_batch(number)[0], features)


def test_batches_of_duplicates_repeat_the_one_stored_feature(tmp_path: Path) -> None:
    paths = list_paths({"cats": 3, "dogs": 2})
    contents = [bytes([number]) * 32 for number in (1, 2, 1, 3, 4)]
    store = make_store(tmp_path / "store", paths, contents=contents, rows_per_shard=2)
    batches = FeatureBatches(store, store.examples, CLASSES, batch_size=5, seed=None)
    features, targets, weights = batches.read_batch(0)
    assert name_rows(features, paths) == [paths[number] for number in (0, 1, 0, 3, 4)]
    assert targets[:, 0].tolist() == [0, 0, 0, 1, 1]
    assert weights.tolist() == [1, 1, 1, 1, 1]


def test_batches_with_balanced_classes_weigh_rare_examples_more(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 6, "dogs": 2}))
    batches = FeatureBatches(store, store.examples, CLASSES, batch_size=8, seed=3, class_weight=ClassWeight.BALANCED)
    _, targets, weights = batches.read_batch(0)
    np.testing.assert_allclose(weights, np.where(targets[:, 0] == 0, 8 / 12, 2.0), rtol=1e-6)


@pytest.mark.parametrize("memory", [None, 0])
def test_batches_list_in_order_gives_the_examples_own_order(two_classes: FeatureStore, memory: int | None) -> None:
    batches = open_batches(two_classes, memory=memory)
    batches.read_batch(0)
    listed = list(batches.list_in_order(4))
    assert [len(part) for part in listed] == [4] * 7 + [3]
    np.testing.assert_array_equal(np.concatenate(listed), two_classes.read(two_classes.examples).astype(np.float32))


def test_read_free_memory_is_between_nothing_and_what_the_machine_has() -> None:
    assert 0 < read_free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
