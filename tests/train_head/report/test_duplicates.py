"""Duplicates across the split: planted ones with the same bytes, and nearly the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from features.options import Pool
from features.store import FeatureStore
from tests.train_head.synthetic import FINGERPRINT, hash_text, make_store
from train_head.data.split import Split, split_examples
from train_head.evaluation import neighbours
from train_head.evaluation.neighbours import NEAR, find_neighbours, list_contents, load_neighbours
from train_head.evaluation.pooled import PooledFeatures
from train_head.report import duplicates
from train_head.report.duplicates import (
    Duplicates,
    find_duplicates,
    find_exact,
    find_nearest,
    measure_typical_similarity,
    warn_of_duplicates,
)

pytestmark = pytest.mark.unit
TRAIN = [f"train/{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(40)]
VALIDATION = [f"validation/{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(12)]
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


def find_in(store: FeatureStore, split: Split, console: Console) -> Duplicates:
    contents = list_contents([*split.train, *split.validation])
    return find_duplicates(split, contents, load_neighbours(PooledFeatures(store, contents), console))


@pytest.fixture
def split(store: FeatureStore) -> Split:
    return split_examples(store.examples, 0.2)


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


def test_find_duplicates_planted_near_duplicate_is_first_and_alone_above_the_limit(
    store: FeatureStore, split: Split, quiet: Console
) -> None:
    found = find_in(store, split, quiet)
    first, *others = found.near
    assert (first.held_out.path, first.train.path) == ("validation/cats/1.jpg", "train/dogs/3.jpg")
    assert first.similarity > 0.7
    assert (len(found.exact), found.num_near) == (1, 1)
    assert all(pair.similarity < NEAR for pair in others)
    assert [pair.similarity for pair in others] == sorted((pair.similarity for pair in others), reverse=True)
    # Pictures with the same bytes are the exact duplicates.
    assert "validation/dogs/2.jpg" not in [pair.held_out.path for pair in found.near]
    assert 0 < found.typical_similarity < NEAR


def test_find_duplicates_of_pooled_features_finds_the_same(
    tmp_path: Path, store: FeatureStore, split: Split, quiet: Console
) -> None:
    features, contents = plant()
    fingerprint = replace(FINGERPRINT, pool=Pool.AVG.value)
    means = make_store(
        tmp_path / "pooled", PATHS, features=features.mean(axis=(1, 2)), contents=contents, fingerprint=fingerprint
    )
    found = find_in(means, split_examples(means.examples, 0.2), quiet)
    expected = find_in(store, split, quiet)
    assert [pair.held_out.path for pair in found.near[:3]] == [pair.held_out.path for pair in expected.near[:3]]
    assert found.num_near == expected.num_near


def test_find_nearest_with_equal_features_has_similarity_one(store: FeatureStore, split: Split) -> None:
    contents = [*split.train[:40], split.validation[0], split.validation[1]]
    values = np.random.default_rng(0).normal(size=(42, 16)).astype(np.float32)
    # The equal row of validation comes first, before a row of training with the same features.
    order = [*range(39), 40, 39, 41]
    values[40] = values[39]
    (first, *_) = find_nearest(split, [contents[n] for n in order], find_neighbours(values))
    assert (first.held_out, first.train, first.similarity) == (split.validation[0], split.train[39], 1.0)


def test_find_duplicates_counts_near_ones_and_shows_a_fixed_number(
    store: FeatureStore, split: Split, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "NUM_NEAR_SHOWN", 2)
    assert len(find_in(store, split, quiet).near) == 2
    # With more near-duplicates than that, up to twice as many are shown.
    monkeypatch.setattr(duplicates, "NEAR", 0.0)
    found = find_in(store, split, quiet)
    assert (found.num_near, len(found.near)) == (23, 4)


def test_find_duplicates_of_too_many_pictures_reads_no_features(
    store: FeatureStore, split: Split, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "MAX_PICTURES", len(PATHS) - 2)
    monkeypatch.setattr(FeatureStore, "read", lambda *_: pytest.fail("features were read"))
    found = find_in(store, split, quiet)
    assert (len(found.exact), found.near, found.num_near) == (1, [], None)


def test_measure_typical_similarity_is_the_median_over_nearest_neighbours() -> None:
    values = np.random.default_rng(2).normal(size=(41, 30)).astype(np.float32)
    found = find_neighbours(values)
    assert measure_typical_similarity(found) == pytest.approx(np.median(found.similarities[:, 0]))
    assert measure_typical_similarity(find_neighbours(np.repeat(values, 2, axis=0))) == 1


@pytest.mark.parametrize(("num_near", "expected"), [(None, 0), (0, 0), (3, 1)])
def test_warn_of_duplicates_warns_once_if_there_are_any(
    capsys: pytest.CaptureFixture[str], num_near: int | None, expected: int
) -> None:
    warn_of_duplicates(num_near, "content hash, 0.2 set aside", Console())
    assert capsys.readouterr().err.count("warning: ") == expected
