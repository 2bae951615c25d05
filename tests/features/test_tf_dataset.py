"""Stream a store as a `tf.data.Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from base.errors import UsageError
from features import arrays
from features.cuts import open_store
from features.schema import Features
from features.store import Example, FeatureStore
from tests.errors import raises
from tests.features.stores import copy_store, pack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_store(tmp_path / "store", range(9))


@pytest.mark.parametrize("kind", ["folder", "packed", "pooled"])
def test_to_tf_dataset_has_every_row_once_in_batches(folder: Path, tmp_path: Path, kind: str) -> None:
    store = pack(folder, tmp_path / "pack.h5") if kind == "packed" else FeatureStore(folder)
    if kind == "pooled":
        store = open_store(folder, pool="avg")
    dataset = store.to_tf_dataset(batch_size=4)
    batches = list(dataset.as_numpy_iterator())
    features, classes = (np.concatenate(column) for column in zip(*batches, strict=True))
    expected, numbers = store.to_numpy()
    assert [len(batch) for batch, _ in batches] == [4, 4, 1]
    assert len(dataset) == 3
    assert (features.dtype, classes.dtype) == (np.dtype(np.float32), np.dtype(np.int64))

    def sort_rows(rows: np.ndarray, labels: np.ndarray) -> list[bytes]:
        return sorted(row.tobytes() + label.tobytes() for row, label in zip(rows, labels, strict=True))

    assert sort_rows(features, classes) == sort_rows(expected, numbers)


def test_to_tf_dataset_split_has_the_rows_of_the_split(folder: Path) -> None:
    store = FeatureStore(folder)
    num_rows = sum(len(features) for features, _ in store.to_tf_dataset("validation").as_numpy_iterator())
    assert 0 < num_rows == len(store.paths("validation")) < len(store)


def test_to_tf_dataset_reads_one_shard_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, num_read = FeatureStore(folder), []
    monkeypatch.setattr(arrays, "count_rows_per_shard", lambda _: 4)
    read_rows = FeatureStore.read

    def record(self: FeatureStore, examples: Sequence[Example]) -> Features:
        num_read.append(len(examples))
        return read_rows(self, examples)

    monkeypatch.setattr(FeatureStore, "read", record)
    assert [len(features) for features, _ in store.to_tf_dataset(batch_size=2).take(1)] == [2]
    assert max(num_read) == 4
    assert sum(num_read) < len(store)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_to_tf_dataset_batch_size_below_1_is_usage_error(folder: Path, batch_size: int) -> None:
    with raises(UsageError, where="batch_size", got=batch_size):
        FeatureStore(folder).to_tf_dataset(batch_size=batch_size)


def test_to_tf_dataset_empty_store_has_no_batches(tmp_path: Path) -> None:
    assert list(FeatureStore(copy_store(tmp_path / "store", range(0))).to_tf_dataset()) == []
