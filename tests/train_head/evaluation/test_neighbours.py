"""Near-duplicates in synthetic features: copies are found in sets with few, many and no copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.synthetic import make_store
from train_head.evaluation import neighbours
from train_head.evaluation.neighbours import (
    NEAR,
    NUM_NEIGHBOURS,
    ORDINARY_RATIO,
    find_groups,
    find_neighbours,
    group_rows,
    list_contents,
    load_neighbours,
)
from train_head.evaluation.pooled import PooledFeatures
from train_head.reduction.cache import Neighbours

pytestmark = pytest.mark.unit
Array = NDArray[np.float32]
NUM_CHANNELS = 48


def draw_pictures(count: int, seed: int = 0, shared: float = 1) -> Array:
    """Draw features of different pictures; most of their variation is along a few shared directions."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(6, NUM_CHANNELS)) * shared
    return (rng.normal(size=(count, 6)) @ directions + rng.normal(size=(count, NUM_CHANNELS))).astype(np.float32)


def copy_pictures(pictures: Array, seed: int = 1) -> Array:
    noise = np.random.default_rng(seed).normal(0, 0.1, pictures.shape)
    return (pictures + noise).astype(np.float32)


def list_groups(found: Neighbours) -> list[list[int]]:
    """List the groups of several rows."""
    groups = group_rows(found)
    return [np.flatnonzero(groups == group).tolist() for group in np.unique(groups) if (groups == group).sum() > 1]


@pytest.mark.parametrize("shared", [1, 20], ids=["unlike", "alike"])
@pytest.mark.parametrize("count", [30, 100, 400])
def test_find_neighbours_without_copies_finds_no_near_ones(count: int, shared: float) -> None:
    found = find_neighbours(draw_pictures(count, shared=shared))
    assert found.similarities.max() < NEAR
    assert list_groups(found) == []


@pytest.mark.parametrize("shared", [1, 4], ids=["unlike", "alike"])
@pytest.mark.parametrize(
    ("count", "num_copied", "num_copies"),
    [(20, 1, 1), (200, 5, 1), (100, 100, 1), (60, 60, 4), (40, 40, 12)],
    ids=["one", "few", "all", "groups-of-5", "groups-of-13"],
)
def test_group_rows_finds_copies_of_any_number(count: int, num_copied: int, num_copies: int, shared: float) -> None:
    pictures = draw_pictures(count, shared=shared)
    copies = [copy_pictures(pictures[:num_copied], seed) for seed in range(num_copies)]
    expected = [[first, *(count + first + num_copied * n for n in range(num_copies))] for first in range(num_copied)]
    assert list_groups(find_neighbours(np.concatenate([pictures, *copies]))) == expected


def test_find_neighbours_of_equal_rows_has_similarity_one_and_leaves_the_others_unchanged() -> None:
    pictures = draw_pictures(50)
    found = find_neighbours(np.concatenate([pictures, pictures[7:8], pictures[7:8]]))
    assert found.firsts.tolist() == [*range(50), 7, 7]
    assert list_groups(found) == [[7, 50, 51]]
    np.testing.assert_array_equal(found.rows[50], found.rows[7])
    assert not np.isin(found.rows, [50, 51]).any()
    np.testing.assert_array_equal(found.similarities, find_neighbours(pictures).similarities[found.firsts])


@pytest.mark.parametrize("count", [1, 2, 180])
def test_find_neighbours_of_constant_features_finds_one_group(count: int) -> None:
    found = find_neighbours(np.full((count, NUM_CHANNELS), 0.25, np.float32))
    assert found.rows.shape == (count, 0)
    assert group_rows(found).tolist() == [0] * count


def test_find_neighbours_with_constant_channels_ignores_them() -> None:
    pictures = draw_pictures(60)
    wider = np.concatenate([pictures, np.full((60, 9), 3.0, np.float32)], axis=1)
    np.testing.assert_allclose(find_neighbours(wider).similarities, find_neighbours(pictures).similarities, atol=1e-4)


def test_find_neighbours_compares_the_cosine_distance_with_those_of_ordinary_neighbours() -> None:
    pictures = draw_pictures(90)
    moved = (pictures - pictures.mean(axis=0)) / pictures.std(axis=0)
    values, vectors = np.linalg.eigh(np.cov(moved.T, bias=True))
    white = moved @ (vectors / np.sqrt(values + values.sum() / 90))
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    distances = 1 - white @ white.T
    np.fill_diagonal(distances, 9)
    ordinary, farther = np.sort(distances, axis=1)[:, [NUM_NEIGHBOURS - 1, 2 * NUM_NEIGHBOURS - 1]].T
    exponents = np.maximum(np.log(ordinary / farther) / np.log(ORDINARY_RATIO), 1)
    ratios = distances / np.minimum.outer(ordinary, ordinary)
    expected = np.clip(1 - ratios ** (1 / np.maximum.outer(exponents, exponents)), 0, 1)
    found = find_neighbours(pictures)
    np.testing.assert_allclose(found.similarities[:, 0], expected.max(axis=1), atol=1e-4)
    np.testing.assert_allclose(found.similarities, np.take_along_axis(expected, found.rows, axis=1), atol=1e-4)
    assert (np.diff(found.similarities, axis=1) <= 0).all()


def test_find_neighbours_in_small_blocks_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, done = draw_pictures(70), list[int]()
    whole = find_neighbours(pictures)
    monkeypatch.setattr(neighbours, "_BLOCK_NUMBERS", 200)
    in_blocks = find_neighbours(pictures, done.append)
    np.testing.assert_array_equal(in_blocks.rows, whole.rows)
    np.testing.assert_allclose(in_blocks.similarities, whole.similarities, atol=1e-5)
    assert (sum(done), len(done) > 10) == (70, True)


def make_chain(similarities: list[float]) -> Neighbours:
    """Make neighbours in which each row is similar to the next one only."""
    count = len(similarities) + 1
    rows = np.minimum(np.arange(count) + 1, count - 1).astype(np.int32)[:, None]
    return Neighbours(np.arange(count, dtype=np.int32), rows, np.array([*similarities, 0], np.float32)[:, None])


def test_group_rows_divides_a_chain_through_the_whole_set_where_it_is_weakest() -> None:
    chain = [0.95, 0.95, 0.45] * 40
    groups = group_rows(make_chain(chain))
    assert np.bincount(groups).max() == 3
    # A chain of a few pictures stays whole.
    assert set(group_rows(make_chain(chain[:15])).tolist()) == {0}


def test_group_rows_keeps_a_large_group_of_equal_rows() -> None:
    groups = group_rows(find_neighbours(np.concatenate([draw_pictures(40), np.zeros((80, NUM_CHANNELS), np.float32)])))
    assert np.bincount(groups).max() == 80


PATHS = [f"{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(30)]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Store in which dogs/3 is a copy of cats/5."""
    pictures = draw_pictures(len(PATHS))
    pictures[PATHS.index("dogs/3.jpg")] = copy_pictures(pictures[5:6])[0]
    features = np.repeat(np.repeat(pictures[:, None, None], 2, axis=1), 2, axis=2)
    return make_store(tmp_path / "store", PATHS, features=features)


def test_load_neighbours_twice_reads_the_features_once(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = list_contents(store.examples)
    first = load_neighbours(PooledFeatures(store, contents), quiet)
    monkeypatch.setattr(FeatureStore, "read", lambda *_: pytest.fail("features were read again"))
    again = load_neighbours(PooledFeatures(store, contents), quiet)
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(again.similarities, first.similarities)
    np.testing.assert_array_equal(again.rows, first.rows)


def test_find_groups_maps_the_copies_to_one_of_them(store: FeatureStore, quiet: Console) -> None:
    hash_of = {example.path: example.content_hash for example in store.examples}
    copies = {hash_of["cats/5.jpg"], hash_of["dogs/3.jpg"]}
    found = find_groups(store, store.examples[::-1], quiet)
    assert found.keys() == copies
    assert len(set(found.values()) & copies) == 1


def test_find_groups_of_too_many_pictures_is_refused(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "MAX_PICTURES", len(PATHS) - 1)
    monkeypatch.setattr(FeatureStore, "read", lambda *_: pytest.fail("features were read"))
    assert load_neighbours(PooledFeatures(store, list_contents(store.examples)), quiet) is None
    with raises(UsageError, where="--split"):
        find_groups(store, store.examples, quiet)
