"""Write a store: shards, commits, the lock and the fingerprint."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import FingerprintMismatchError, StoreLockedError, StoreMissingError, StoreWriteError
from features.schema import FeatureKey, FeatureStatus
from features.shards.shard import SHARD_FOLDER, ShardRef, write_shard
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.features.stores import (
    add_features,
    copy_store,
    fill_store,
    make_features,
    make_fingerprint,
    make_image,
    make_key,
    make_origin,
    make_writer,
    read_sorted,
)
from tests.files import read_files

pytestmark = pytest.mark.unit


def refuse_write(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_writer_fills_shards_in_order(tmp_path: Path) -> None:
    fill_store(tmp_path, range(10))
    store = FeatureStore(tmp_path)
    assert [(shard.number, shard.num_rows) for shard in store.shards] == [(1, 4), (2, 4), (3, 2)]
    by_path = {example.path: example for example in store.examples}
    for number in range(10):
        example = by_path[make_image(number).path]
        assert (example.shard, example.row) == (number // 4 + 1, number % 4)
        np.testing.assert_array_equal(store.read([example]), make_features([number]))


def test_writer_opened_again_appends_a_new_shard(tmp_path: Path) -> None:
    copy_store(tmp_path, range(3))
    first = read_files(tmp_path / SHARD_FOLDER)
    fill_store(tmp_path, range(3, 6))
    assert read_files(tmp_path / SHARD_FOLDER).items() > first.items()
    store = FeatureStore(tmp_path)
    assert [(shard.number, shard.num_rows) for shard in store.shards] == [(1, 3), (2, 3)]
    np.testing.assert_array_equal(read_sorted(store), make_features(range(6)))


def test_writer_ended_by_an_error_keeps_full_shards_only(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with make_writer(tmp_path) as writer:
            writer.update_images([make_image(number) for number in range(6)], [])
            add_features(writer, range(6))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    with make_writer(tmp_path) as writer:
        assert [writer.holds(make_key(number)) for number in range(6)] == [True] * 4 + [False] * 2


def test_commit_interrupted_after_the_transaction_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_writer(tmp_path) as writer:
        add_shard = writer.catalog.add_shard

        def add_and_interrupt(*arguments: Any) -> None:
            add_shard(*arguments)
            raise KeyboardInterrupt

        add_features(writer, range(3))
        with monkeypatch.context() as patch:
            patch.setattr(writer.catalog, "add_shard", add_and_interrupt)
            with pytest.raises(KeyboardInterrupt):
                writer.commit()
        writer.commit()
    with make_writer(tmp_path) as writer:
        assert [writer.holds(make_key(number)) for number in range(4)] == [True, True, True, False]
    assert [shard.num_rows for shard in FeatureStore(tmp_path).shards] == [3]


def test_writer_removes_partial_files_of_an_interrupted_write(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    (tmp_path / SHARD_FOLDER / f".partial-000002-{'0' * 64}.h5").write_bytes(b"half")
    (tmp_path / ".partial-features.h5").write_bytes(b"half")
    with make_writer(tmp_path) as writer:
        assert len(writer.notes) == 2
    assert not list(tmp_path.rglob(".partial*"))


def test_writer_of_a_locked_store_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    with make_writer(tmp_path) as holder:
        before = read_files(tmp_path)
        with raises(StoreLockedError, where=tmp_path) as caught, make_writer(tmp_path):
            pass
        assert f"process {os.getpid()} on" in caught.value.got
        assert len(FeatureStore(tmp_path).examples) == 4
        assert read_files(tmp_path) == before
        assert holder.num_stored == 4
    with make_writer(tmp_path) as writer:
        assert writer.num_stored == 4


def test_writer_other_fingerprint_is_an_error_with_both_values_of_each_field(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    other = FeatureWriter(tmp_path, make_fingerprint(cut="mixed6", image_size=150), make_origin())
    expected, got = "cut mixed7, image_size 75", "cut mixed6, image_size 150"
    with raises(FingerprintMismatchError, where=tmp_path, expected=expected, got=got), other:
        pass


def test_writer_store_without_features_gets_the_new_fingerprint_and_origin(tmp_path: Path) -> None:
    copy_store(tmp_path, range(0))
    shape = (3, 3, 5)
    with FeatureWriter(tmp_path, make_fingerprint(image_size=150), make_origin(shape)) as writer:
        writer.update_images([make_image(0)], [])
        add_features(writer, [0], shape=shape)
        writer.commit()
    store = FeatureStore(tmp_path)
    assert (store.fingerprint, store.feature_shape) == (make_fingerprint(image_size=150), shape)
    np.testing.assert_array_equal(store.read(store.examples), make_features([0], shape))
    with raises(FingerprintMismatchError, where=tmp_path), make_writer(tmp_path):
        pass


def test_writer_full_disk_is_an_error_and_the_next_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store(tmp_path, range(4))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse_write)
        with raises(StoreWriteError, where=tmp_path) as caught:
            fill_store(tmp_path, range(4, 8))
    assert "full" in caught.value.got
    assert "4 " in caught.value.advice
    assert len(FeatureStore(tmp_path).shards) == 1
    fill_store(tmp_path, range(4, 8))
    assert len(FeatureStore(tmp_path).shards) == 2


def test_writer_full_disk_before_the_first_byte_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", refuse_write)
    with raises(StoreWriteError, where=tmp_path / "new") as caught, make_writer(tmp_path / "new"):
        pass
    assert "full" in caught.value.got


def test_writer_folder_with_other_files_is_an_error_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_bytes(b"x")
    with raises(StoreMissingError, where=tmp_path) as caught, make_writer(tmp_path):
        pass
    assert "thesis.doc" in caught.value.got
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_writer_unusable_features_are_stored_without_examples(tmp_path: Path) -> None:
    with make_writer(tmp_path) as writer:
        writer.update_images([make_image(number) for number in range(3)], [])
        add_features(writer, range(3), [FeatureStatus.OK, FeatureStatus.NONFINITE, FeatureStatus.OVERFLOW])
        writer.commit()
    store = FeatureStore(tmp_path)
    assert store.num_features == 3
    assert [example.path for example in store.examples] == [make_image(0).path]


def write_elsewhere(writer: FeatureWriter, numbers: Sequence[int]) -> tuple[ShardRef, list[FeatureKey]]:
    """Write the shard of some features as another process does."""
    keys, statuses = [make_key(number) for number in numbers], [FeatureStatus.OK] * len(numbers)
    rows = pickle.loads(pickle.dumps(writer.encoder)).encode_rows(make_features(numbers))
    data = writer.encoder.encode_shard(keys, rows, statuses)
    return write_shard(writer.folder, writer.reserve_number(), data, len(keys)), keys


def test_shard_of_another_process_is_committed_with_its_images(tmp_path: Path) -> None:
    with make_writer(tmp_path) as writer:
        add_features(writer, [0])
        writer.commit()
        (later, later_keys), (shard, keys) = write_elsewhere(writer, [3]), write_elsewhere(writer, [1, 2])
        for number in (1, 2):
            writer.add_image(make_image(number))
        assert writer.commit_shard(shard, keys, [FeatureStatus.OK] * 2) == 2
        assert writer.commit_shard(later, later_keys, [FeatureStatus.OK]) == 1
    store = FeatureStore(tmp_path)
    assert [(found.number, found.num_rows) for found in store.shards] == [(1, 1), (2, 1), (3, 2)]
    assert len(store.contents.locations) == 4
    assert {image.path for image in store.images} == {make_image(number).path for number in (1, 2)}


def test_shard_without_new_features_is_removed_and_its_images_are_kept(tmp_path: Path) -> None:
    with make_writer(tmp_path) as writer:
        shard, keys = write_elsewhere(writer, [1, 2])
        again, some = write_elsewhere(writer, [2])
        writer.commit_shard(shard, keys, [FeatureStatus.OK] * 2)
        writer.add_image(make_image(2))
        assert writer.commit_shard(again, some, [FeatureStatus.OK]) == 0
    assert [path.name for path in (tmp_path / SHARD_FOLDER).iterdir()] == [shard.name]
    assert [image.path for image in FeatureStore(tmp_path).images] == [make_image(2).path]


def test_shard_that_is_not_in_the_store_is_refused(tmp_path: Path) -> None:
    with make_writer(tmp_path) as writer:
        shard, keys = write_elsewhere(writer, [1])
        (tmp_path / SHARD_FOLDER / shard.name).unlink()
        with raises(StoreWriteError, where=tmp_path):
            writer.commit_shard(shard, keys, [FeatureStatus.OK])
    assert not FeatureStore(tmp_path).shards
