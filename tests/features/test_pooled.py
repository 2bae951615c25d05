"""Average pooling of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import UsageError
from features.cuts import open_store
from features.options import Pool
from features.pooled import POOLED, pool_store
from features.schema import Features
from features.store import FeatureStore
from tests.errors import raises
from tests.features.stores import copy_store, make_features, pack

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(copy_store(tmp_path / "store", range(10)))


@pytest.mark.parametrize("is_packed", [False, True])
def test_pool_store_read_returns_channel_means_in_any_order(
    store: FeatureStore, tmp_path: Path, is_packed: bool
) -> None:
    pooled = pool_store(pack(store, tmp_path / "pack.h5") if is_packed else store)
    # The examples begin with the cats, whose numbers are even.
    numbers = [int(Path(example.path).stem) for example in pooled.examples]
    features = pooled.read(pooled.examples)
    assert pooled.feature_shape == (3,)
    assert [example.path for example in pooled.examples] == [example.path for example in store.examples]
    np.testing.assert_allclose(features, make_features(numbers).astype(np.float64).mean(axis=(1, 2)), atol=1e-3)
    np.testing.assert_array_equal(pooled.read(pooled.examples[::-1]), features[::-1])
    assert features.dtype == np.float16


def test_pool_store_large_values_do_not_overflow(store: FeatureStore) -> None:
    def read_large(shard: int, rows: Sequence[int], out: Features) -> None:
        out[:] = 60_000

    store.contents = replace(store.contents, read_rows=read_large)
    pooled = pool_store(store)
    np.testing.assert_array_equal(pooled.read(pooled.examples[:2]), np.full((2, 3), 60_000, np.float16))


def test_pool_store_has_another_fingerprint_and_leaves_the_original_unchanged(store: FeatureStore) -> None:
    before = store.fingerprint
    pooled = pool_store(store)
    assert pooled.fingerprint.pool == POOLED
    assert pooled.fingerprint.digest != before.digest
    assert (store.fingerprint, store.feature_shape) == (before, (2, 2, 3))


@pytest.mark.parametrize(("pool", "shape"), [(Pool.AVG, (3,)), (Pool.NONE, (2, 2, 3))])
def test_open_store_pool_determines_the_feature_shape(store: FeatureStore, pool: Pool, shape: tuple[int, ...]) -> None:
    assert open_store(store.path, "", pool).feature_shape == shape


def test_pool_store_features_without_height_and_width_is_usage_error(store: FeatureStore) -> None:
    with raises(UsageError, where="--pool avg", got=f"(3,) in {store.path}"):
        pool_store(pool_store(store))
