"""The order of pictures in an epoch, and batches from memory and from the shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.shards import shard
from features.store import Example, FeatureStore
from tests.train_head.fits import limit_memory
from tests.train_head.synthetic import CLASSES, draw_features, list_paths, make_example, make_store
from train_head.config import ClassWeight
from train_head.data.batches import FeatureBatches, PictureOrder, weigh_examples

pytestmark = pytest.mark.unit

ROW_BYTES = 2 * 2 * 3 * 2
"""Size of a synthetic feature."""


def make_examples(rows_of_shard: dict[int, int]) -> list[Example]:
    return [
        make_example(f"cats/{shard}-{row}.jpg", shard=shard, row=row)
        for shard, rows in rows_of_shard.items()
        for row in range(rows)
    ]


def plan(seed: int | None, epoch: int, examples: list[Example] | None = None) -> list[int]:
    order = PictureOrder(make_examples(dict.fromkeys(range(1, 5), 10)) if examples is None else examples, seed)
    return [int(number) for number in order.plan(epoch).pictures]


def read_epoch(batches: FeatureBatches, epoch: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    start = epoch * batches.num_batches
    read = [batches.read_batch(start + number) for number in range(batches.num_batches)]
    return [features for features, _, _ in read], [targets for _, targets, _ in read]


def open_batches(store: FeatureStore, *, seed: int | None = 0) -> FeatureBatches:
    return FeatureBatches(store, store.examples, CLASSES, batch_size=5, seed=seed)


def name_rows(features: NDArray[np.float32], paths: list[str]) -> list[str]:
    """Return the path of the example that each row of features belongs to."""
    path_of = {row.astype(np.float32).tobytes(): path for path, row in zip(paths, draw_features(paths), strict=True)}
    return [path_of[row.tobytes()] for row in features]


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which the number of a shard is appended each time that it is opened."""
    opened: list[int] = []
    open_original = shard.open_shard

    @contextmanager
    def open_counted(store: Path, ref: shard.ShardRef, **options: bool) -> Iterator[Any]:
        opened.append(ref.number)
        with open_original(store, ref, **options) as file:
            yield file

    monkeypatch.setattr(shard, "open_shard", open_counted)
    return opened


@pytest.fixture(params=[None, 0, ROW_BYTES * 8, ROW_BYTES * 41], ids=["held", "0-rows", "8-rows", "41-rows"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Size of the blocks of features that are read at a time, in bytes; None if all are kept in memory."""
    num_bytes: int | None = request.param
    limit_memory(monkeypatch, num_bytes)
    return num_bytes


@pytest.mark.parametrize("seed", [None, 0])
def test_picture_order_has_each_picture_once(seed: int | None) -> None:
    assert sorted(plan(seed, 0)) == list(range(40))


def test_picture_order_without_seed_is_that_of_the_rows() -> None:
    assert plan(None, 3, make_examples({2: 6, 1: 6})) == list(range(12))


def test_picture_order_depends_on_seed_and_epoch() -> None:
    first = plan(3, 1)
    assert plan(3, 1) == first
    assert plan(3, 2) != first
    assert plan(4, 1) != first


def test_picture_order_does_not_depend_on_the_shards() -> None:
    examples = make_examples(dict.fromkeys(range(1, 5), 10))
    elsewhere = [example._replace(shard=7 - example.shard, row=9 - example.row) for example in examples]
    assert plan(0, 0, examples) == plan(0, 0, elsewhere)
    shards = np.array(plan(0, 0, examples)) // 10
    assert all(len(set(part)) > 1 for part in np.split(shards, 8))


def test_batches_follow_the_planned_order_with_a_partial_last_one(
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


def test_batches_pair_each_feature_with_its_target(three_classes: FeatureStore, memory: int | None) -> None:
    paths = [example.path for example in three_classes.examples]
    batches = open_batches(three_classes)
    assert batches.in_memory == (memory is None)
    for epoch in range(3):
        features, targets = read_epoch(batches, epoch)
        named = name_rows(np.concatenate(features), paths)
        assert sorted(named) == sorted(paths)
        labels = [CLASSES[int(number)] for number in np.concatenate(targets)[:, 0]]
        assert labels == [path.split("/")[-2] for path in named]


@pytest.mark.parametrize("num_bytes", [0, 1, ROW_BYTES * 8, ROW_BYTES * 12, ROW_BYTES * 41])
def test_batches_from_blocks_equal_those_from_memory(
    three_classes: FeatureStore, monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    expected = open_batches(three_classes)
    limit_memory(monkeypatch, num_bytes)
    batches = open_batches(three_classes)
    assert (expected.in_memory, batches.in_memory) == (True, False)
    assert batches.num_batches == expected.num_batches
    for number in (*range(2 * expected.num_batches), 3):
        for mine, theirs in zip(batches.read_batch(number), expected.read_batch(number), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_batches_stay_in_memory_up_to_the_limit(three_classes: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ROW_BYTES * len(three_classes.examples)
    for held_bytes in (needed, needed - 1):
        monkeypatch.setattr("train_head.data.batches.HELD_BYTES", held_bytes)
        assert open_batches(three_classes).in_memory == (held_bytes == needed)


@pytest.mark.usefixtures("memory")
def test_batches_depend_only_on_seed_and_number(three_classes: FeatureStore) -> None:
    batches = open_batches(three_classes)
    in_turn = [np.concatenate(read_epoch(batches, epoch)[0]) for epoch in range(3)]
    fresh = np.concatenate(read_epoch(open_batches(three_classes), 2)[0])
    other = np.concatenate(read_epoch(open_batches(three_classes, seed=1), 2)[0])
    np.testing.assert_array_equal(fresh, in_turn[2])
    assert not np.array_equal(in_turn[1], in_turn[2])
    assert not np.array_equal(other, in_turn[2])


@pytest.mark.usefixtures("memory")
def test_batches_without_seed_keep_the_order_of_the_examples(three_classes: FeatureStore) -> None:
    paths = [example.path for example in three_classes.examples]
    batches = open_batches(three_classes, seed=None)
    for epoch in range(2):
        assert name_rows(np.concatenate(read_epoch(batches, epoch)[0]), paths) == paths


def test_batches_from_blocks_can_be_read_in_any_order(
    three_classes: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, ROW_BYTES * 8)
    batches = open_batches(three_classes)
    features, targets = read_epoch(batches, 0)
    for number in (7, 0, 8, 7, 3):
        again = batches.read_batch(number)
        np.testing.assert_array_equal(again[0], features[number])
        np.testing.assert_array_equal(again[1], targets[number])


def test_batches_from_blocks_can_be_read_ahead_into_the_next_epoch(
    three_classes: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keras reads ahead at the end of an epoch, in another thread.
    limit_memory(monkeypatch, ROW_BYTES * 8)
    batches = open_batches(three_classes)
    expected = read_epoch(open_batches(three_classes), 0)[0]
    for number, features in enumerate(expected):
        batches.read_batch(batches.num_batches + number)
        np.testing.assert_array_equal(batches.read_batch(number)[0], features)


def test_batches_of_duplicates_repeat_the_stored_feature(tmp_path: Path) -> None:
    paths = list_paths({"cats": 3, "dogs": 2})
    contents = [bytes([number]) * 32 for number in (1, 2, 1, 3, 4)]
    store = make_store(tmp_path / "store", paths, contents=contents, rows_per_shard=2)
    batches = FeatureBatches(store, store.examples, CLASSES, batch_size=5, seed=None)
    features, targets, weights = batches.read_batch(0)
    assert name_rows(features, paths) == [paths[number] for number in (0, 1, 0, 3, 4)]
    assert targets[:, 0].tolist() == [0, 0, 0, 1, 1]
    assert weights.tolist() == [1, 1, 1, 1, 1]


def test_batches_with_balanced_classes_weight_rare_classes_more(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 6, "dogs": 2}))
    batches = FeatureBatches(store, store.examples, CLASSES, batch_size=8, seed=3, class_weight=ClassWeight.BALANCED)
    _, targets, weights = batches.read_batch(0)
    np.testing.assert_allclose(weights, np.where(targets[:, 0] == 0, 8 / 12, 2.0), rtol=1e-6)


@pytest.mark.usefixtures("memory")
def test_batches_iterate_in_order_yields_the_order_of_the_examples(two_classes: FeatureStore) -> None:
    paths = [example.path for example in two_classes.examples]
    batches = FeatureBatches(two_classes, two_classes.examples, CLASSES, batch_size=5, seed=0)
    parts = list(batches.iterate_in_order(4))
    assert [len(part) for part in parts] == [4] * 7 + [3]
    assert name_rows(np.concatenate(parts), paths) == paths


@pytest.mark.parametrize("block_rows", [4, 9, 30])
def test_batches_from_blocks_read_each_shard_once_an_epoch(
    two_classes: FeatureStore, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    limit_memory(monkeypatch, ROW_BYTES * block_rows)
    examples = two_classes.examples[:30]
    batches = FeatureBatches(two_classes, examples, CLASSES, batch_size=5, seed=0)
    shards = sorted({example.shard for example in examples})
    opened = count_reads(monkeypatch)
    for epoch in range(2):
        read_epoch(batches, epoch)
        assert opened == shards
        opened.clear()
    list(batches.iterate_in_order(5))
    assert opened == shards


def test_batches_from_blocks_without_seed_sort_the_rows_once(
    two_classes: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, ROW_BYTES * 8)
    batches = open_batches(two_classes, seed=None)
    opened = count_reads(monkeypatch)
    for epoch in range(3):
        read_epoch(batches, epoch)
    list(batches.iterate_in_order(5))
    assert len(opened) == len(two_classes.shards)


def test_weigh_examples_balanced_gives_each_class_the_same_total() -> None:
    targets = np.array([0, 0, 0, 1, 2, 2])
    plain, balanced = (weigh_examples(targets, class_weight) for class_weight in ClassWeight)
    assert plain.dtype == balanced.dtype == np.float32
    assert plain.tolist() == [1] * 6
    np.testing.assert_allclose(balanced, [6 / 9, 6 / 9, 6 / 9, 2, 1, 1], rtol=1e-6)
