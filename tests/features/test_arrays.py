"""NumPy arrays of a store, its splits, and its summaries."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from features import arrays
from features.cuts import open_store
from features.schema import Features, FeatureStatus
from features.store import FeatureStore
from tests.errors import raises
from tests.features.stores import (
    SHAPE,
    add_features,
    add_views,
    copy_store,
    make_features,
    make_image,
    make_key,
    make_writer,
    pack,
)
from tests.systems import needs_posix
from train_head.data.split import split_examples

pytestmark = pytest.mark.unit

NUM_PICTURES = 14
SPLITS = ("train", "train", "validation", "test")


def find_split(number: int) -> str:
    return SPLITS[number // 2 % 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store with splits, views, an unusable feature and a duplicate picture; tests must not change it."""
    store = tmp_path_factory.mktemp("arrays") / "store"
    numbers = range(NUM_PICTURES)
    with make_writer(store) as writer:
        add_features(writer, numbers)
        add_features(writer, [90], [FeatureStatus.OVERFLOW])
        for number in (*numbers, 90):
            writer.add_image(make_image(number, split=find_split(number)))
        writer.add_image(make_image(3, split="train")._replace(path="dogs/a copy.jpg"))
        writer.commit()
    add_views(store, range(2), range(1, 3))
    return store


@pytest.fixture(scope="module")
def packed(folder: Path) -> Path:
    """Packed store of `folder`."""
    return pack(folder, folder.with_name("pack.h5")).path


def compute_expected(split: str | None) -> tuple[list[int], Features]:
    """Return the numbers of the pictures of a split in the order of their content hashes, and their features."""
    numbers = [number for number in [*range(NUM_PICTURES), 3] if split in (None, find_split(number))]
    numbers.sort(key=lambda number: hashlib.sha256(str(number).encode()).digest())
    return numbers, make_features(numbers)


@pytest.mark.parametrize("kind", ["folder", "packed"])
@pytest.mark.parametrize("split", [None, "train", "validation", "test"])
def test_to_numpy_split_is_sorted_by_content_hash(request: pytest.FixtureRequest, split: str | None, kind: str) -> None:
    store = FeatureStore(request.getfixturevalue(kind))
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
def test_to_numpy_dtype_has_the_stored_values(folder: Path, dtype: str) -> None:
    features, _ = FeatureStore(folder).to_numpy("train", dtype)
    assert features.dtype == dtype
    np.testing.assert_array_equal(features, compute_expected("train")[1].astype(dtype))


def test_to_numpy_train_has_the_rows_of_training(folder: Path) -> None:
    store = FeatureStore(folder)
    trained = split_examples(store.examples, 0.2).train
    assert [example.path for example in trained] == store.paths("train")
    np.testing.assert_array_equal(store.to_numpy("train", "float16")[0], store.read(trained))


def test_to_numpy_pooled_store_returns_means(folder: Path) -> None:
    features, classes = open_store(folder, pool="avg").to_numpy()
    assert (features.shape, classes.shape) == ((15, 3), (15,))
    np.testing.assert_allclose(features, compute_expected(None)[1].astype(np.float64).mean(axis=(1, 2)), atol=1e-3)


@pytest.mark.parametrize("split", ["trian", "", "Train"])
@pytest.mark.parametrize("method", ["to_numpy", "to_tf_dataset", "paths"])
def test_split_unknown_name_is_usage_error(folder: Path, method: str, split: str) -> None:
    with raises(UsageError, where="split", got=repr(split)):
        getattr(FeatureStore(folder), method)(split)


def test_splits_without_split_folders_are_those_of_training(tmp_path: Path) -> None:
    store = FeatureStore(copy_store(tmp_path / "store", range(20), rows_per_shard=20))
    expected = split_examples(store.examples, 0.2)
    assert store.paths("train") == [example.path for example in expected.train]
    assert store.paths("validation") == [example.path for example in expected.validation]
    with raises(UsageError, where="split", got="'test'"):
        store.paths("test")


@pytest.mark.parametrize("dtype", ["int8", "float", "bfloat16"])
def test_to_numpy_unknown_dtype_is_usage_error(folder: Path, dtype: str) -> None:
    with raises(UsageError, where="dtype", got=repr(dtype)):
        FeatureStore(folder).to_numpy(dtype=dtype)


def test_to_numpy_beyond_free_memory_fails_before_allocation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_bytes = 15 * int(np.prod(SHAPE)) * 4
    store = FeatureStore(folder)
    monkeypatch.setattr(arrays, "find_free_memory", lambda: num_bytes)
    store.to_numpy()
    monkeypatch.setattr(arrays, "find_free_memory", lambda: num_bytes - 1)
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", lambda *_: pytest.fail("allocated"))
        with raises(HeadstartError, where="memory") as caught:
            store.to_numpy()
    assert f"{num_bytes:,}" in caught.value.expected
    assert f"{num_bytes - 1:,}" in caught.value.got
    store.to_numpy(dtype="float16")


@needs_posix
def test_find_free_memory_is_at_most_the_physical_memory() -> None:
    free = arrays.find_free_memory()
    assert free is None or 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@needs_posix
def test_repr_has_path_counts_shape_and_dtype(folder: Path, packed: Path) -> None:
    store = FeatureStore(folder)
    assert (len(store), bool(store), store.classes) == (15, True, ["cats", "dogs"])
    for text in (str(folder), "15", "'cats': 7", "'dogs': 8", "'train': 9", str(SHAPE), "mixed7", "float16"):
        assert text in repr(store)
    assert "(3,)" in repr(open_store(folder, pool="avg"))
    assert repr(FeatureStore(packed)).count("'cats': 7") == 1


@needs_posix
def test_repr_html_escapes_names(tmp_path: Path) -> None:
    with make_writer(tmp_path / "a<b") as writer:
        add_features(writer, [0])
        writer.add_image(make_image(0, "<script>&\udcff"))
        writer.commit()
    page = FeatureStore(tmp_path / "a<b")._repr_html_()
    assert "<table>" in page
    assert "<script>" not in page
    assert "a<b" not in page
    assert "&lt;script&gt;&amp;" in page
    page.encode()


def test_repr_many_classes_lists_the_first_ten(tmp_path: Path) -> None:
    with make_writer(tmp_path / "store", rows_per_shard=40) as writer:
        add_features(writer, range(40))
        for number in range(40):
            writer.add_image(make_image(number, f"class {number:02}"))
        writer.commit()
    text = repr(FeatureStore(tmp_path / "store"))
    assert "'class 09': 1" in text
    assert "'class 10'" not in text
    assert "30 more" in text


def test_open_store_unknown_pool_is_usage_error(folder: Path) -> None:
    with raises(UsageError, where="--pool", got="'max'"):
        open_store(folder, pool="max")


def test_to_numpy_empty_store_returns_empty_arrays(tmp_path: Path) -> None:
    store = FeatureStore(str(copy_store(tmp_path / "store", range(0))))
    features, classes = store.to_numpy()
    assert (features.shape, classes.shape, store.paths(), len(store)) == ((0, *SHAPE), (0,), [], 0)


def test_to_numpy_omits_a_picture_with_an_unusable_feature(folder: Path) -> None:
    assert make_image(90).path not in FeatureStore(folder).paths()
    assert make_key(90) in FeatureStore(folder).contents.locations
