"""A store seen through its means: values, shapes, what tells it from others, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import UsageError
from features.cuts import open_store
from features.packed.write import pack_store
from features.pooled import POOLED, pool_store
from features.schema import Features, Pool
from features.shards.compression import Compression
from features.store import FeatureStore
from tests.features.stores import fill_store, make_features


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    fill_store(tmp_path / "store", range(10), rows_per_shard=4)
    return FeatureStore(tmp_path / "store")


@pytest.mark.parametrize("packed", [False, True])
def test_pooled_store_reads_each_channels_mean_in_any_order(store: FeatureStore, tmp_path: Path, packed: bool) -> None:
    if packed:
        pack_store(store, tmp_path / "pack.h5", Compression.GZIP, lambda _: None)
        store = FeatureStore(tmp_path / "pack.h5")
    pooled = pool_store(store)
    # The store lists cats first, which have the even numbers.
    numbers = [int(Path(example.path).stem) for example in pooled.examples]
    expected = np.stack([make_features(range(n, n + 1))[0].astype(np.float64).mean(axis=(0, 1)) for n in numbers])
    assert pooled.feature_shape == (3,)
    assert pooled.examples == store.examples
    np.testing.assert_allclose(pooled.read(pooled.examples), expected, atol=1e-3)
    np.testing.assert_array_equal(pooled.read(pooled.examples[::-1]), pooled.read(pooled.examples)[::-1])
    assert pooled.read(pooled.examples).dtype == np.float16


def test_pooled_store_of_large_values_does_not_overflow(store: FeatureStore) -> None:
    def read_large(shard: int, rows: Sequence[int], out: Features) -> None:
        out[:] = 60_000

    store.contents = replace(store.contents, read_rows=read_large)
    pooled = pool_store(store)
    np.testing.assert_array_equal(pooled.read(pooled.examples[:2]), np.full((2, 3), 60_000, np.float16))


def test_pooled_store_has_a_fingerprint_of_its_own_and_leaves_the_other_as_it_was(store: FeatureStore) -> None:
    before = store.fingerprint
    pooled = pool_store(store)
    assert pooled.fingerprint.pool == POOLED
    assert len({pooled.fingerprint.digest, before.digest}) == 2
    assert (store.fingerprint, store.feature_shape) == (before, (2, 2, 3))


def test_open_store_with_avg_pools_and_refuses_means_of_means(store: FeatureStore) -> None:
    assert open_store(store.path, "", Pool.AVG).feature_shape == (3,)
    assert open_store(store.path, "", Pool.NONE).feature_shape == (2, 2, 3)
    with pytest.raises(UsageError) as raised:
        pool_store(pool_store(store))
    assert str(raised.value) == (
        f"--pool avg: expected features with height and width, got (3,) in {store.path}. Leave it out."
    )
