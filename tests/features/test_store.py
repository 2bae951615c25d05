"""The read side: today's images, the right features, in the order asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from base.errors import ShardDamagedError, StoreMissingError
from features.contents import UnusableReason
from features.packed.write import pack_store
from features.pooled import pool_store
from features.schema import FeatureStatus, ImageStatus
from features.shards.compression import Compression
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from tests.features.stores import (
    add_views,
    fill_store,
    make_features,
    make_fingerprint,
    make_image,
    make_key,
    make_writer,
)


def test_read_in_any_order_with_repeats_gives_each_its_own_feature(tmp_path: Path) -> None:
    fill_store(tmp_path, range(10))
    store = FeatureStore(tmp_path)
    by_number = {int(Path(example.path).stem): example for example in store.examples}
    order = [9, 0, 5, 5, 2, 8, 0]
    expected = np.concatenate([make_features(range(number, number + 1)) for number in order])
    np.testing.assert_array_equal(store.read([by_number[number] for number in order]), expected)


def test_store_describes_itself(tmp_path: Path) -> None:
    fill_store(tmp_path, range(2))
    store = FeatureStore(tmp_path)
    assert store.fingerprint == make_fingerprint()
    assert store.feature_shape == (2, 2, 3)


def test_labels_and_splits_are_those_of_the_last_scan(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    with make_writer(tmp_path) as writer:
        moved = make_image(0)._replace(path="test/dogs/moved.jpg", label="dogs", split="test")
        writer.update_images([moved], ["cats/00000.jpg", "dogs/00003.jpg"])
    store = FeatureStore(tmp_path)
    assert [(e.path, e.label, e.split) for e in store.examples] == [
        ("cats/00002.jpg", "cats", ""),
        ("dogs/00001.jpg", "dogs", ""),
        ("test/dogs/moved.jpg", "dogs", "test"),
    ]
    np.testing.assert_array_equal(store.read([store.examples[2]]), make_features(range(1)))


def test_duplicates_share_one_feature(tmp_path: Path) -> None:
    fill_store(tmp_path, range(2))
    with make_writer(tmp_path) as writer:
        writer.update_images([make_image(0)._replace(path="cats/copy.jpg")], [])
    store = FeatureStore(tmp_path)
    one, copy = (e for e in store.examples if e.label == "cats")
    assert (one.shard, one.row) == (copy.shard, copy.row)
    assert store.num_features == 2


def test_pending_and_failed_images_are_no_examples(tmp_path: Path) -> None:
    fill_store(tmp_path, range(2))
    with make_writer(tmp_path) as writer:
        pending = make_image(2)._replace(status=ImageStatus.PENDING, content_hash=None)
        failed = make_image(3)._replace(status=ImageStatus.FAILED, reason="damaged")
        writer.update_images([pending, failed], [])
    store = FeatureStore(tmp_path)
    assert [e.path for e in store.examples] == ["cats/00000.jpg", "dogs/00001.jpg"]
    assert store.num_pending == 1


def test_opened_store_is_a_snapshot(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    before = FeatureStore(tmp_path)
    fill_store(tmp_path, range(4, 8))
    assert len(before.examples) == 4
    assert before.read(before.examples).shape == (4, 2, 2, 3)
    assert len(FeatureStore(tmp_path).examples) == 8


def test_missing_shard_is_an_error_never_zeros(tmp_path: Path) -> None:
    fill_store(tmp_path, range(8))
    store = FeatureStore(tmp_path)
    (tmp_path / SHARD_FOLDER / store.shards[1].name).unlink()
    with pytest.raises(ShardDamagedError, match="No such file"):
        store.read(store.examples)


def test_missing_store_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="python -m extract"):
        FeatureStore(tmp_path / "nowhere")


def test_views_are_counted_listed_and_read_beside_the_images_own_feature(tmp_path: Path) -> None:
    fill_store(tmp_path, range(5))
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
        expected = np.concatenate([make_features(range(n, n + 1)) for n in (number + 1000 * v.view for v in views)])
        np.testing.assert_array_equal(store.read(views), expected)
        assert store.list_views(example, 2) == views[:2]
        assert store.list_views(example, 1) == [example]


def test_views_that_are_not_sound_are_not_listed(tmp_path: Path) -> None:
    fill_store(tmp_path, range(1))
    with make_writer(tmp_path) as writer:
        keys = [make_key(0)._replace(view=view) for view in (1, 2)]
        writer.add_features(keys, make_features(range(2)), [FeatureStatus.OVERFLOW, FeatureStatus.OK])
        writer.commit()
    store = FeatureStore(tmp_path)
    assert [view.view for view in store.list_views(store.examples[0], store.num_views)] == [0, 2]


def test_views_alone_make_no_example(tmp_path: Path) -> None:
    fill_store(tmp_path, range(2))
    add_views(tmp_path, range(2, 3), range(1, 3))
    with make_writer(tmp_path) as writer:
        writer.update_images([make_image(2)], [])
    store = FeatureStore(tmp_path)
    assert [e.path for e in store.examples] == ["cats/00000.jpg", "dogs/00001.jpg"]
    assert store.num_pending == 1


def test_find_examples_of_gone_and_duplicate_images_gives_stored_rows(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    add_views(tmp_path, range(1, 2), range(1, 2))
    with make_writer(tmp_path) as writer:
        writer.add_features([make_key(9)], make_features(range(9, 10)), [FeatureStatus.OVERFLOW])
        writer.commit()
        writer.update_images([], [make_image(number).path for number in range(4)])
    store = FeatureStore(tmp_path)
    assert store.examples == []
    keys = [make_key(3), make_key(1)._replace(view=1), make_key(8), make_key(9), make_key(0)]
    found = store.find_examples(keys)
    assert [example is None for example in found] == [False, False, True, True, False]
    rows = [example for example in found if example is not None]
    expected = np.concatenate([make_features(range(n, n + 1)) for n in (3, 1001, 0)])
    np.testing.assert_array_equal(store.read(rows), expected)


def test_hash_sources_depends_on_the_files_alone(tmp_path: Path) -> None:
    fill_store(tmp_path / "a", range(12))
    fill_store(tmp_path / "b", range(12), rows_per_shard=6)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    stores = [FeatureStore(tmp_path / name) for name in ("a", "copy", "b")]
    one, copy, other = (store.hash_sources(store.examples) for store in stores)
    assert one == copy != other
    store = stores[0]
    assert store.hash_sources(store.examples[::-1]) == one
    first = [example for example in store.examples if example.shard == 1]
    assert store.hash_sources(first) == store.hash_sources(first[:1]) != one
    assert pool_store(store).hash_sources(store.examples) == one


def test_hash_sources_of_a_pack_is_that_of_its_bytes(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", range(4))
    store = FeatureStore(tmp_path / "store")
    pack_store(store, tmp_path / "a.h5", Compression.GZIP, lambda _: None)
    pack_store(store, tmp_path / "b.h5", Compression.NONE, lambda _: None)
    shutil.copy(tmp_path / "a.h5", tmp_path / "copy.h5")
    one, other, copy = (FeatureStore(tmp_path / f"{name}.h5") for name in ("a", "b", "copy"))
    assert one.hash_sources(one.examples) == copy.hash_sources(copy.examples[:1])
    assert one.hash_sources(one.examples) != other.hash_sources(other.examples)


def test_describe_source_is_the_file_of_an_example(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", range(8))
    store = FeatureStore(tmp_path / "store")
    by_path = {example.path: example for example in store.examples}
    second = by_path[make_image(5).path]
    assert store.describe_source(second) == str(tmp_path / "store" / SHARD_FOLDER / store.shards[1].name)
    pack_store(store, tmp_path / "a.h5", Compression.GZIP, lambda _: None)
    packed = FeatureStore(tmp_path / "a.h5")
    assert packed.describe_source(packed.examples[0]) == str(tmp_path / "a.h5")


def test_list_unusable_names_every_image_that_is_no_example(tmp_path: Path) -> None:
    fill_store(tmp_path, range(3))
    with make_writer(tmp_path) as writer:
        statuses = [FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE]
        writer.add_features([make_key(3), make_key(4)], make_features(range(3, 5)), statuses)
        for number in (3, 4, 5):
            writer.add_image(make_image(number))
        writer.add_image(make_image(6)._replace(status=ImageStatus.PENDING, content_hash=None))
        writer.add_image(make_image(7)._replace(status=ImageStatus.FAILED, content_hash=None, reason="no picture"))
        writer.commit()
    store = FeatureStore(tmp_path)
    assert len(store.examples) + len(store.list_unusable()) == len(store.images) == 8
    assert {found.image.path: (found.reason, found.detail) for found in store.list_unusable()} == {
        make_image(3).path: (UnusableReason.UNSOUND, "overflow"),
        make_image(4).path: (UnusableReason.UNSOUND, "nonfinite"),
        make_image(5).path: (UnusableReason.PENDING, ""),
        make_image(6).path: (UnusableReason.PENDING, ""),
        make_image(7).path: (UnusableReason.FAILED, "no picture"),
    }
    assert store.num_pending == 2
