"""The write side: shards are the unit of commit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import (
    FingerprintMismatchError,
    StoreLockedError,
    StoreMissingError,
    StoreWriteError,
)
from features.schema import FeatureStatus
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.features.stores import (
    SHAPE,
    fill_store,
    make_features,
    make_fingerprint,
    make_image,
    make_key,
    make_origin,
    make_writer,
)


def test_writer_fills_shards_in_order_and_the_last_one_partly(tmp_path: Path) -> None:
    fill_store(tmp_path, range(10))
    store = FeatureStore(tmp_path)
    assert [(shard.number, shard.num_rows) for shard in store.shards] == [(1, 4), (2, 4), (3, 2)]
    by_path = {example.path: example for example in store.examples}
    for number in range(10):
        example = by_path[make_image(number).path]
        assert (example.shard, example.row) == (number // 4 + 1, number % 4)
        np.testing.assert_array_equal(store.read([example])[0], make_features(range(number, number + 1))[0])


def test_writer_opened_again_goes_on_with_the_next_shard(tmp_path: Path) -> None:
    fill_store(tmp_path, range(3))
    first = {path.name: path.read_bytes() for path in (tmp_path / SHARD_FOLDER).iterdir()}
    fill_store(tmp_path, range(3, 6))
    for name, data in first.items():
        assert (tmp_path / SHARD_FOLDER / name).read_bytes() == data
    store = FeatureStore(tmp_path)
    assert [(shard.number, shard.num_rows) for shard in store.shards] == [(1, 3), (2, 3)]
    np.testing.assert_array_equal(
        store.read(sorted(store.examples, key=lambda e: e.path[-9:])), make_features(range(6))
    )


def test_writer_left_by_an_error_keeps_whole_shards_and_drops_the_rest(tmp_path: Path) -> None:
    def write_then_fail() -> None:
        with make_writer(tmp_path) as writer:
            numbers = range(6)
            writer.update_images([make_image(number) for number in numbers], [])
            writer.add_features([make_key(n) for n in numbers], make_features(numbers), [FeatureStatus.OK] * 6)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_then_fail()
    with make_writer(tmp_path) as writer:
        assert [writer.holds(make_key(number)) for number in range(6)] == [True] * 4 + [False] * 2


def test_writer_interrupted_right_after_a_transaction_commits_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_writer(tmp_path) as writer:
        add_shard = writer.catalog.add_shard

        def add_then_interrupt(*arguments: Any) -> None:
            add_shard(*arguments)
            raise KeyboardInterrupt

        for number in range(3):
            writer.add_features([make_key(number)], make_features(range(number, number + 1)), [FeatureStatus.OK])
        with monkeypatch.context() as patch:
            patch.setattr(writer.catalog, "add_shard", add_then_interrupt)
            with pytest.raises(KeyboardInterrupt):
                writer.commit()
        writer.commit()
    with make_writer(tmp_path) as writer:
        # The shard stood on the disk without its transaction, so it was adopted.
        assert [writer.holds(make_key(number)) for number in range(4)] == [True, True, True, False]


def test_writer_removes_what_an_interrupted_write_left(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    (tmp_path / SHARD_FOLDER / f".partial-000002-{'0' * 64}.h5").write_bytes(b"half")
    (tmp_path / ".partial-features.h5").write_bytes(b"half")
    fill_store(tmp_path, range(4, 8))
    assert not list(tmp_path.rglob(".partial*"))


def test_writer_second_one_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    program = (
        "import sys, pathlib\n"
        "from tests.features.stores import make_writer\n"
        "with make_writer(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        before = (tmp_path / "catalog.sqlite").read_bytes()
        with pytest.raises(StoreLockedError, match=f"process {holder.pid} on"), make_writer(tmp_path):
            pass
        assert len(FeatureStore(tmp_path).examples) == 4
        assert (tmp_path / "catalog.sqlite").read_bytes() == before
        holder.stdin.close()
    with make_writer(tmp_path) as writer:
        assert writer.num_stored == 4


def test_writer_of_another_fingerprint_is_refused_with_field_and_both_values(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    other = FeatureWriter(tmp_path, make_fingerprint(cut="mixed6", image_size=150), make_origin())
    with pytest.raises(FingerprintMismatchError) as caught, other:
        pass
    assert "expected cut mixed7, image_size 75, got cut mixed6, image_size 150." in str(caught.value)


def test_writer_store_without_features_takes_on_another_fingerprint_and_origin(tmp_path: Path) -> None:
    with make_writer(tmp_path):
        pass
    shape = (3, 3, 5)
    with FeatureWriter(tmp_path, make_fingerprint(image_size=150), make_origin(shape)) as writer:
        writer.update_images([make_image(0)], [])
        writer.add_features([make_key(0)], make_features(range(1), shape), [FeatureStatus.OK])
        writer.commit()
    store = FeatureStore(tmp_path)
    assert (store.fingerprint, store.feature_shape) == (make_fingerprint(image_size=150), shape)
    np.testing.assert_array_equal(store.read(store.examples), make_features(range(1), shape))
    with pytest.raises(FingerprintMismatchError), make_writer(tmp_path):
        pass


def test_writer_full_disk_says_how_many_are_safe_and_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(tmp_path, range(4))

    def refuse(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreWriteError, match="got a full disk. 4 features are safe"):
            fill_store(tmp_path, range(4, 8))
    assert len(FeatureStore(tmp_path).shards) == 1
    fill_store(tmp_path, range(4, 8))
    assert len(FeatureStore(tmp_path).shards) == 2


def test_writer_in_a_folder_with_other_files_is_refused_and_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_bytes(b"x")
    with pytest.raises(StoreMissingError, match=r"thesis\.doc"), make_writer(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_writer_features_that_are_not_sound_are_stored_but_no_examples(tmp_path: Path) -> None:
    with make_writer(tmp_path) as writer:
        writer.update_images([make_image(number) for number in range(3)], [])
        statuses = [FeatureStatus.OK, FeatureStatus.NONFINITE, FeatureStatus.OVERFLOW]
        writer.add_features([make_key(n) for n in range(3)], np.ones((3, *SHAPE), np.float16), statuses)
        writer.commit()
    store = FeatureStore(tmp_path)
    assert store.num_features == 3
    assert [example.path for example in store.examples] == [make_image(0).path]
