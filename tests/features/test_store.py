"""Read a store: images, examples, views and features."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from base.errors import ShardDamagedError, StoreMissingError
from features.contents import UnusableReason
from features.cuts import open_store
from features.options import Compression
from features.pooled import pool_store
from features.schema import FeatureStatus, ImageStatus
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from tests.errors import raises
from tests.features.stores import (
    add_features,
    add_views,
    copy_store,
    fill_store,
    make_features,
    make_fingerprint,
    make_image,
    make_key,
    make_writer,
    pack,
)

pytestmark = pytest.mark.unit


def test_read_any_order_and_duplicates_return_the_matching_features(tmp_path: Path) -> None:
    store = FeatureStore(copy_store(tmp_path, range(10)))
    by_number = {int(Path(example.path).stem): example for example in store.examples}
    order = [9, 0, 5, 5, 2, 8, 0]
    np.testing.assert_array_equal(store.read([by_number[number] for number in order]), make_features(order))


def test_store_has_the_fingerprint_and_shape_of_its_features(tmp_path: Path) -> None:
    store = FeatureStore(copy_store(tmp_path, range(2)))
    assert store.fingerprint == make_fingerprint()
    assert store.feature_shape == (2, 2, 3)


def test_examples_have_path_label_and_split_of_the_last_scan(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    with make_writer(tmp_path) as writer:
        moved = make_image(0)._replace(path="test/dogs/moved.jpg", label="dogs", split="test")
        writer.update_images([moved], ["cats/00000.jpg", "dogs/00003.jpg"])
    store = FeatureStore(tmp_path)
    assert [(e.path, e.label, e.split) for e in store.examples] == [
        ("cats/00002.jpg", "cats", ""),
        ("dogs/00001.jpg", "dogs", ""),
        ("test/dogs/moved.jpg", "dogs", "test"),
    ]
    np.testing.assert_array_equal(store.read([store.examples[2]]), make_features([0]))


def test_examples_duplicate_images_share_one_feature(tmp_path: Path) -> None:
    copy_store(tmp_path, range(2))
    with make_writer(tmp_path) as writer:
        writer.update_images([make_image(0)._replace(path="cats/copy.jpg")], [])
    store = FeatureStore(tmp_path)
    one, copy = (e for e in store.examples if e.label == "cats")
    assert (one.shard, one.row) == (copy.shard, copy.row)
    assert store.num_features == 2


def test_examples_exclude_pending_and_failed_images(tmp_path: Path) -> None:
    copy_store(tmp_path, range(2))
    with make_writer(tmp_path) as writer:
        pending = make_image(2)._replace(status=ImageStatus.PENDING, content_hash=None)
        failed = make_image(3)._replace(status=ImageStatus.FAILED, reason="damaged")
        writer.update_images([pending, failed], [])
    store = FeatureStore(tmp_path)
    assert [e.path for e in store.examples] == ["cats/00000.jpg", "dogs/00001.jpg"]
    assert store.num_pending == 1


def test_opened_store_does_not_see_later_commits(tmp_path: Path) -> None:
    before = FeatureStore(copy_store(tmp_path, range(4)))
    fill_store(tmp_path, range(4, 8))
    assert len(before.examples) == 4
    assert before.read(before.examples).shape == (4, 2, 2, 3)
    assert len(FeatureStore(tmp_path).examples) == 8


def test_read_missing_shard_is_an_error(tmp_path: Path) -> None:
    store = FeatureStore(copy_store(tmp_path, range(8)))
    path = tmp_path / SHARD_FOLDER / store.shards[1].name
    path.unlink()
    with raises(ShardDamagedError, where=path):
        store.read(store.examples)


def test_store_missing_folder_is_an_error(tmp_path: Path) -> None:
    with raises(StoreMissingError, where=tmp_path / "missing"):
        FeatureStore(tmp_path / "missing")


@pytest.mark.parametrize("pool", ["none", "avg"])
def test_store_unpickled_reads_the_same_features(tmp_path: Path, pool: str) -> None:
    store = open_store(copy_store(tmp_path, range(4)), pool=pool)
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.path, copy.examples, copy.fingerprint) == (store.path, store.examples, store.fingerprint)
    np.testing.assert_array_equal(copy.read(copy.examples), store.read(store.examples))


def test_list_views_returns_the_example_and_its_stored_views(tmp_path: Path) -> None:
    copy_store(tmp_path, range(5))
    assert FeatureStore(tmp_path).num_views == 1
    add_views(tmp_path, range(1, 3), range(1, 3))
    store = FeatureStore(tmp_path)
    assert (store.num_views, store.num_features, len(store.examples), store.num_pending) == (3, 9, 5, 0)
    for example in store.examples:
        number = int(Path(example.path).stem)
        views = store.list_views(example, 3)
        assert views[0] == example
        assert [view.view for view in views] == ([0, 1, 2] if number in (1, 2) else [0])
        assert {view[:4] for view in views} == {example[:4]}
        np.testing.assert_array_equal(store.read(views), make_features(number + 1000 * view.view for view in views))
        assert store.list_views(example, 2) == views[:2]
        assert store.list_views(example, 1) == [example]


def test_list_views_excludes_unusable_views(tmp_path: Path) -> None:
    copy_store(tmp_path, range(1))
    with make_writer(tmp_path) as writer:
        keys = [make_key(0)._replace(view=view) for view in (1, 2)]
        writer.add_features(keys, make_features(range(2)), [FeatureStatus.OVERFLOW, FeatureStatus.OK])
        writer.commit()
    store = FeatureStore(tmp_path)
    assert [view.view for view in store.list_views(store.examples[0], store.num_views)] == [0, 2]


def test_examples_exclude_images_without_view_0(tmp_path: Path) -> None:
    copy_store(tmp_path, range(2))
    add_views(tmp_path, range(2, 3), range(1, 3))
    with make_writer(tmp_path) as writer:
        writer.update_images([make_image(2)], [])
    store = FeatureStore(tmp_path)
    assert [e.path for e in store.examples] == ["cats/00000.jpg", "dogs/00001.jpg"]
    assert store.num_pending == 1


def test_find_examples_finds_usable_features_of_removed_images(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    add_views(tmp_path, range(1, 2), range(1, 2))
    with make_writer(tmp_path) as writer:
        add_features(writer, [9], [FeatureStatus.OVERFLOW])
        writer.commit()
        writer.update_images([], [make_image(number).path for number in range(4)])
    store = FeatureStore(tmp_path)
    assert store.examples == []
    found = store.find_examples([make_key(3), make_key(1)._replace(view=1), make_key(8), make_key(9), make_key(0)])
    assert [example is None for example in found] == [False, False, True, True, False]
    rows = [example for example in found if example is not None]
    np.testing.assert_array_equal(store.read(rows), make_features([3, 1001, 0]))


def test_hash_sources_depends_on_the_shard_files_only(tmp_path: Path) -> None:
    store = FeatureStore(copy_store(tmp_path / "a", range(12)))
    copy = FeatureStore(shutil.copytree(tmp_path / "a", tmp_path / "copy"))
    other = FeatureStore(copy_store(tmp_path / "b", range(12), rows_per_shard=6))
    digest = store.hash_sources(store.examples)
    assert digest == copy.hash_sources(copy.examples) != other.hash_sources(other.examples)
    assert store.hash_sources(store.examples[::-1]) == digest
    first = [example for example in store.examples if example.shard == 1]
    assert store.hash_sources(first) == store.hash_sources(first[:1]) != digest
    assert pool_store(store).hash_sources(store.examples) == digest


def test_hash_sources_packed_store_depends_on_the_bytes_of_the_file(tmp_path: Path) -> None:
    folder = copy_store(tmp_path / "store", range(4))
    one, other = (pack(folder, tmp_path / f"{kind}.h5", kind) for kind in (Compression.GZIP, Compression.NONE))
    copy = FeatureStore(shutil.copy(one.path, tmp_path / "copy.h5"))
    assert one.hash_sources(one.examples) == copy.hash_sources(copy.examples[:1])
    assert one.hash_sources(one.examples) != other.hash_sources(other.examples)


def test_describe_source_returns_the_file_of_the_feature(tmp_path: Path) -> None:
    store = FeatureStore(copy_store(tmp_path / "store", range(8)))
    (example,) = [example for example in store.examples if example.path == make_image(5).path]
    assert store.describe_source(example) == str(tmp_path / "store" / SHARD_FOLDER / store.shards[1].name)
    packed = pack(store, tmp_path / "a.h5")
    assert packed.describe_source(packed.examples[0]) == str(tmp_path / "a.h5")


def test_list_unusable_returns_each_image_without_an_example(tmp_path: Path) -> None:
    copy_store(tmp_path, range(3))
    with make_writer(tmp_path) as writer:
        add_features(writer, [3, 4], [FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE])
        for number in (3, 4, 5):
            writer.add_image(make_image(number))
        writer.add_image(make_image(6)._replace(status=ImageStatus.PENDING, content_hash=None))
        writer.add_image(make_image(7)._replace(status=ImageStatus.FAILED, content_hash=None, reason="truncated"))
        writer.commit()
    store = FeatureStore(tmp_path)
    assert len(store.examples) + len(store.list_unusable()) == len(store.images) == 8
    assert {found.image.path: (found.reason, found.detail) for found in store.list_unusable()} == {
        make_image(3).path: (UnusableReason.UNSOUND, "overflow"),
        make_image(4).path: (UnusableReason.UNSOUND, "nonfinite"),
        make_image(5).path: (UnusableReason.PENDING, ""),
        make_image(6).path: (UnusableReason.PENDING, ""),
        make_image(7).path: (UnusableReason.FAILED, "truncated"),
    }
    assert store.num_pending == 2
