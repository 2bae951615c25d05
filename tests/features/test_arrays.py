"""The store as a data set: NumPy arrays, a tf.data.Dataset, classes, paths and how it is shown."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from features import arrays
from features.cuts import open_store
from features.packed.write import pack_store
from features.schema import Features, FeatureStatus
from features.shards.compression import Compression
from features.store import Example, FeatureStore
from tests.features.stores import SHAPE, add_views, make_features, make_image, make_key, make_writer

NUM_PICTURES = 14
SPLITS = ("train", "train", "validation", "test")


def find_split(number: int) -> str:
    return SPLITS[number // 2 % 4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    numbers = range(NUM_PICTURES)
    with make_writer(tmp_path / "store") as writer:
        writer.add_features(list(map(make_key, numbers)), make_features(numbers), [FeatureStatus.OK] * NUM_PICTURES)
        writer.add_features([make_key(90)], make_features(range(1)), [FeatureStatus.OVERFLOW])
        for number in (*numbers, 90):
            writer.add_image(make_image(number, split=find_split(number)))
        writer.add_image(make_image(3, split="train")._replace(path="dogs/a copy.jpg"))
        writer.commit()
    add_views(tmp_path / "store", range(2), range(1, 3))
    return tmp_path / "store"


def pack(folder: Path) -> Path:
    pack_store(FeatureStore(folder), folder.with_name("pack.h5"), Compression.GZIP, lambda _: None)
    return folder.with_name("pack.h5")


def compute_expected(split: str | None) -> tuple[list[int], Features]:
    numbers = [number for number in [*range(NUM_PICTURES), 3] if split in (None, find_split(number))]
    numbers.sort(key=lambda number: hashlib.sha256(str(number).encode()).digest())
    return numbers, np.concatenate([make_features(range(number, number + 1)) for number in numbers])


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("split", [None, "train", "validation", "test"])
def test_to_numpy_gives_features_and_classes_in_the_order_of_the_content_hashes(
    folder: Path, split: str | None, is_packed: bool
) -> None:
    store = FeatureStore(pack(folder) if is_packed else folder)
    numbers, expected = compute_expected(split)
    features, classes = store.to_numpy(split)
    assert (features.dtype, classes.dtype) == (np.dtype(np.float32), np.dtype(np.int64))
    np.testing.assert_array_equal(features, expected.astype(np.float32))
    assert [store.classes[number] for number in classes] == [("cats", "dogs")[number % 2] for number in numbers]
    assert [path for path in store.paths(split) if "copy" not in path] == [
        make_image(number).path for number in dict.fromkeys(numbers)
    ]
    assert len(store.paths(split)) == len(features)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_to_numpy_gives_the_stored_values_in_the_dtype(folder: Path, dtype: str) -> None:
    features, _ = FeatureStore(folder).to_numpy("train", dtype)
    assert features.dtype == dtype
    np.testing.assert_array_equal(features, compute_expected("train")[1].astype(dtype))


def test_to_numpy_rows_are_those_of_a_training(folder: Path) -> None:
    from train_head.data.split import split_examples

    store = FeatureStore(folder)
    trained = split_examples(store.examples, 0.2).train
    assert [example.path for example in trained] == store.paths("train")
    np.testing.assert_array_equal(store.to_numpy("train", "float16")[0], store.read(trained))


def test_to_numpy_of_a_pooled_store_gives_means(folder: Path) -> None:
    features, classes = open_store(folder, pool="avg").to_numpy()
    assert (features.shape, classes.shape) == ((15, 3), (15,))
    np.testing.assert_allclose(features, compute_expected(None)[1].astype(np.float64).mean(axis=(1, 2)), atol=1e-3)


@pytest.mark.parametrize("split", ["trian", "", "Train"])
def test_split_of_another_name_is_refused(folder: Path, split: str) -> None:
    store = FeatureStore(folder)
    for act in (store.to_numpy, store.to_tf_dataset, store.paths):
        with pytest.raises(UsageError) as raised:
            act(split)
        assert (raised.value.where, raised.value.got) == ("split", repr(split))


def test_splits_of_a_store_without_folders_for_them_are_those_of_a_training(tmp_path: Path) -> None:
    from train_head.data.split import split_examples

    numbers = range(20)
    with make_writer(tmp_path) as writer:
        writer.add_features(list(map(make_key, numbers)), make_features(numbers), [FeatureStatus.OK] * 20)
        for number in numbers:
            writer.add_image(make_image(number))
        writer.commit()
    store = FeatureStore(tmp_path)
    expected = split_examples(store.examples, 0.2)
    assert store.paths("train") == [example.path for example in expected.train]
    assert store.paths("validation") == [example.path for example in expected.validation]
    with pytest.raises(UsageError):
        store.paths("test")


@pytest.mark.parametrize("dtype", ["int8", "float", "bfloat16"])
def test_to_numpy_of_another_dtype_is_refused(folder: Path, dtype: str) -> None:
    with pytest.raises(UsageError) as raised:
        FeatureStore(folder).to_numpy(dtype=dtype)
    assert raised.value.got == repr(dtype)


def test_to_numpy_that_needs_more_than_the_free_memory_is_refused_before_it_is_allocated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = 15 * int(np.prod(SHAPE)) * 4
    store = FeatureStore(folder)
    monkeypatch.setattr(arrays, "find_free_memory", lambda: num_bytes)
    store.to_numpy()
    monkeypatch.setattr(arrays, "find_free_memory", lambda: num_bytes - 1)
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", lambda *_: pytest.fail("allocated"))
        with pytest.raises(HeadstartError) as raised:
            store.to_numpy()
    assert f"{num_bytes:,} bytes" in raised.value.expected
    assert all(text in raised.value.advice for text in ('dtype="float16"', "split=", 'pool="avg"'))
    store.to_numpy(dtype="float16")


def test_find_free_memory_is_what_the_system_reports() -> None:
    free = arrays.find_free_memory()
    assert free is None or 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", ["folder", "packed", "pooled"])
def test_to_tf_dataset_gives_every_row_once_in_batches(folder: Path, kind: str) -> None:
    store = FeatureStore(pack(folder) if kind == "packed" else folder)
    if kind == "pooled":
        store = open_store(folder, pool="avg")
    dataset = store.to_tf_dataset("train", batch_size=4)
    batches = list(dataset.as_numpy_iterator())
    features, classes = (np.concatenate(side) for side in zip(*batches, strict=True))
    expected, numbers = store.to_numpy("train")
    assert [len(batch) for batch, _ in batches] == [4, 4, 1]
    assert len(dataset) == 3
    assert (features.dtype, classes.dtype) == (np.dtype(np.float32), np.dtype(np.int64))

    def sort_rows(rows: np.ndarray, labels: np.ndarray) -> list[bytes]:
        return sorted(row.tobytes() + label.tobytes() for row, label in zip(rows, labels, strict=True))

    assert sort_rows(features, classes) == sort_rows(expected, numbers)


def test_to_tf_dataset_reads_one_shard_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = FeatureStore(folder), []
    monkeypatch.setattr(arrays, "count_rows_per_shard", lambda _: 4)
    read_rows = FeatureStore.read

    def record(self: FeatureStore, examples: Sequence[Example]) -> Features:
        read.append(len(examples))
        return read_rows(self, examples)

    monkeypatch.setattr(FeatureStore, "read", record)
    assert [len(features) for features, _ in store.to_tf_dataset(batch_size=2).take(3)] == [2, 2, 2]
    assert max(read) == 4
    assert sum(read) < len(store)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_to_tf_dataset_without_a_positive_batch_size_is_refused(folder: Path, batch_size: int) -> None:
    with pytest.raises(UsageError) as raised:
        FeatureStore(folder).to_tf_dataset(batch_size=batch_size)
    assert raised.value.got == str(batch_size)


def test_store_shows_path_counts_classes_and_kind_of_features(folder: Path) -> None:
    store = FeatureStore(folder)
    assert (len(store), bool(store), store.classes) == (15, True, ["cats", "dogs"])
    for text in (str(folder), "15", "'cats': 7", "'dogs': 8", "'train': 9", str(SHAPE), "mixed7", "float16"):
        assert text in repr(store)
    assert "(3,)" in repr(open_store(folder, pool="avg"))
    assert repr(FeatureStore(pack(folder))).count("'cats': 7") == 1


def test_store_in_a_notebook_is_a_table_in_which_every_name_is_escaped(tmp_path: Path) -> None:
    label = "<script>&\udcff"
    with make_writer(tmp_path / "a<b") as writer:
        writer.add_features([make_key(0)], make_features(range(1)), [FeatureStatus.OK])
        writer.add_image(make_image(0, label))
        writer.commit()
    page = FeatureStore(tmp_path / "a<b")._repr_html_()
    assert page.startswith("<table>")
    assert "<script>" not in page
    assert "a<b" not in page
    assert "&lt;script&gt;&amp;" in page
    page.encode()


def test_store_of_many_classes_shows_the_first_ones(tmp_path: Path) -> None:
    numbers = range(40)
    with make_writer(tmp_path) as writer:
        writer.add_features(list(map(make_key, numbers)), make_features(numbers), [FeatureStatus.OK] * 40)
        for number in numbers:
            writer.add_image(make_image(number, f"class {number:02}"))
        writer.commit()
    text = repr(FeatureStore(tmp_path))
    assert "'class 09': 1" in text
    assert "'class 10'" not in text
    assert "30 more" in text


def test_open_store_of_another_pool_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError) as raised:
        open_store(folder, pool="max")
    assert raised.value.got == "'max'"


def test_store_without_features_gives_empty_arrays(tmp_path: Path) -> None:
    with make_writer(tmp_path):
        pass
    store = FeatureStore(str(tmp_path))
    features, classes = store.to_numpy()
    assert (features.shape, classes.shape, store.paths(), len(store)) == ((0, *SHAPE), (0,), [], 0)
    assert list(store.to_tf_dataset()) == []
