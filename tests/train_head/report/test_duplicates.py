"""Duplicates across the split: planted ones with the same bytes, and nearly the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from features.schema import Pool
from features.store import FeatureStore
from tests.train_head.synthetic import FINGERPRINT, hash_text, make_store
from train_head.data.split import Split, split_examples
from train_head.reduction.cache import Means
from train_head.report import duplicates
from train_head.report.duplicates import (
    NEAR,
    NUM_NEAR_SHOWN,
    find_duplicates,
    find_exact,
    find_nearest,
    load_means,
    measure_typical_similarity,
)

pytestmark = pytest.mark.unit
TRAIN = [f"train/{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(12)]
VALIDATION = [f"validation/{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(5)]
PATHS = TRAIN + VALIDATION
SHAPE = (2, 2, 64)


def draw(paths: Sequence[str]) -> NDArray[np.float64]:
    rng = np.random.default_rng(4)
    return np.abs(rng.normal(0.5, 0.5, (len(paths), *SHAPE)))


def plant() -> tuple[NDArray[np.float64], list[bytes]]:
    """Return features in which validation/cats/1 is nearly train/dogs/3, and validation/dogs/2 equals train/dogs/7."""
    features, contents = draw(PATHS), [hash_text(path) for path in PATHS]
    copy, original = PATHS.index("validation/cats/1.jpg"), PATHS.index("train/dogs/3.jpg")
    noise = np.random.default_rng(5).normal(0, 0.05, SHAPE)
    # Mirrored, which leaves the channel means unchanged.
    features[copy] = features[original][:, ::-1] * 1.1 + noise
    same, original = PATHS.index("validation/dogs/2.jpg"), PATHS.index("train/dogs/7.jpg")
    features[same], contents[same] = features[original], contents[original]
    return features, contents


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    features, contents = plant()
    return make_store(tmp_path / "store", PATHS, features=features, contents=contents)


@pytest.fixture
def split(store: FeatureStore) -> Split:
    return split_examples(store.examples, 0.2)


def require_means(store: FeatureStore, split: Split, quiet: Console) -> Means:
    means = load_means(store, split, quiet)
    assert means is not None
    return means


def test_find_exact_planted_copy_is_paired_with_its_original(split: Split) -> None:
    (pair,) = find_exact(split.train, split.validation)
    assert (pair.held_out.path, pair.train.path) == ("validation/dogs/2.jpg", "train/dogs/7.jpg")
    assert pair.similarity == 1.0


def test_find_exact_several_copies_are_listed_in_path_order(split: Split) -> None:
    first = split.train[0]
    copies = [first._replace(path=f"validation/cats/{name}.jpg") for name in "ba"]
    twin = first._replace(path="train/cats/+.jpg")
    found = find_exact([*split.train, twin], copies)
    assert [(pair.held_out.path[-5], pair.train.path) for pair in found] == [("a", twin.path), ("b", twin.path)]


def test_find_nearest_planted_near_duplicate_is_first_and_alone_above_the_limit(
    store: FeatureStore, split: Split, quiet: Console
) -> None:
    pairs = find_nearest(split, require_means(store, split, quiet))
    assert (pairs[0].held_out.path, pairs[0].train.path) == ("validation/cats/1.jpg", "train/dogs/3.jpg")
    assert pairs[0].similarity > 0.9
    assert [pair.similarity >= NEAR for pair in pairs] == [True] + [False] * 8
    assert [pair.similarity for pair in pairs] == sorted((pair.similarity for pair in pairs), reverse=True)
    # Pictures with the same bytes are the exact duplicates.
    assert "validation/dogs/2.jpg" not in [pair.held_out.path for pair in pairs]


def test_find_nearest_similarity_is_the_correlation_of_standardised_means(
    store: FeatureStore, split: Split, quiet: Console
) -> None:
    def list_means(examples: Sequence[str]) -> NDArray[np.float64]:
        features, _ = plant()
        stored = features.astype(np.float16).astype(np.float64)
        means: NDArray[np.float64] = stored[[PATHS.index(path) for path in examples]].mean(axis=(1, 2))
        return means

    train, held_out = list_means(TRAIN), list_means(VALIDATION)
    center, spread = train.mean(axis=0), train.std(axis=0)
    rows = [(side - center) / spread for side in (train, held_out)]
    rows = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in rows]
    expected = rows[1] @ rows[0].T
    for pair in find_nearest(split, require_means(store, split, quiet)):
        row = expected[VALIDATION.index(pair.held_out.path)]
        assert pair.train.path == TRAIN[int(row.argmax())]
        assert pair.similarity == pytest.approx(row.max(), abs=2e-3)


def test_find_nearest_in_small_blocks_finds_the_same_pairs(
    store: FeatureStore, split: Split, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = require_means(store, split, quiet)
    whole = find_nearest(split, means)
    monkeypatch.setattr(duplicates, "_BLOCK_NUMBERS", 50)
    in_blocks = find_nearest(split, means)
    assert [pair[:2] for pair in in_blocks] == [pair[:2] for pair in whole]


def test_measure_typical_similarity_is_the_median_over_nearest_neighbours() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(40, 30)).astype(np.float32)
    values[1::2] = values[::2] + rng.normal(0, 0.01, (20, 30)).astype(np.float32)
    assert measure_typical_similarity(Means(values, values[:3])) > 0.99
    apart = rng.normal(size=(41, 30)).astype(np.float32)
    standard = (apart - apart.mean(axis=0)) / apart.std(axis=0)
    lengths = np.linalg.norm(standard, axis=1)
    expected = standard @ standard.T / np.outer(lengths, lengths)
    np.fill_diagonal(expected, -1)
    assert measure_typical_similarity(Means(apart, apart[:3])) == pytest.approx(
        np.median(expected.max(axis=1)), abs=1e-4
    )


def test_load_means_twice_reads_the_features_once(
    store: FeatureStore, split: Split, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = require_means(store, split, quiet)
    monkeypatch.setattr(FeatureStore, "read", lambda *_: pytest.fail("features were read again"))
    again = require_means(store, split, quiet)
    np.testing.assert_array_equal(again.train, first.train)
    np.testing.assert_array_equal(again.validation, first.validation)


def test_load_means_of_pooled_features_returns_them_unchanged(tmp_path: Path, quiet: Console) -> None:
    features = draw(PATHS).mean(axis=(1, 2))
    fingerprint = replace(FINGERPRINT, pool=Pool.AVG.value)
    store = make_store(tmp_path / "store", PATHS, features=features, fingerprint=fingerprint)
    split = split_examples(store.examples, 0.2)
    means = require_means(store, split, quiet)
    by_hash = sorted(split.train, key=lambda example: example.content_hash)
    np.testing.assert_array_equal(means.train, store.read(by_hash).astype(np.float32))


def test_load_means_of_too_many_pictures_reads_no_features(
    store: FeatureStore, split: Split, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "MAX_PICTURES", len(PATHS) - 2)
    monkeypatch.setattr(FeatureStore, "read", lambda *_: pytest.fail("features were read"))
    assert load_means(store, split, quiet) is None
    found = find_duplicates(store, split, quiet)
    assert (len(found.exact), found.near, found.num_near) == (1, [], None)


def test_find_duplicates_counts_near_ones_and_shows_a_fixed_number(
    store: FeatureStore, split: Split, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_duplicates(store, split, quiet)
    assert (len(found.exact), found.num_near, len(found.near)) == (1, 1, 9)
    assert found.typical_similarity < NEAR < NUM_NEAR_SHOWN
    monkeypatch.setattr(duplicates, "NUM_NEAR_SHOWN", 2)
    assert len(find_duplicates(store, split, quiet).near) == 2
    # With more near-duplicates than that, up to twice as many are shown.
    monkeypatch.setattr(duplicates, "NEAR", -1.0)
    found = find_duplicates(store, split, quiet)
    assert (found.num_near, len(found.near)) == (9, 4)
