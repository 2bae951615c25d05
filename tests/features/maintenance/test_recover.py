"""Recovery of a store after an interrupted run."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import CatalogDamagedError, StoreWriteError
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.maintenance.check import rebuild_catalog
from features.maintenance.recover import move_to_quarantine
from features.schema import QUARANTINE_FOLDER
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from tests.errors import raises
from tests.features.stores import (
    copy_store,
    fill_store,
    flip_byte,
    make_features,
    make_image,
    make_key,
    make_writer,
    read_sorted,
)

pytestmark = pytest.mark.unit


def list_shards(store: Path) -> list[Path]:
    return sorted((store / SHARD_FOLDER).iterdir())


@pytest.fixture(scope="module")
def _interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = copy_store(tmp_path_factory.mktemp("recover") / "store", range(4))
    before = (store / CATALOG_NAME).read_bytes()
    fill_store(store, range(4, 8))
    (store / CATALOG_NAME).write_bytes(before)
    return store


@pytest.fixture
def orphan(_interrupted: Path, tmp_path: Path) -> Path:
    """Second shard of the store `tmp_path`, not yet in the catalog, as after a kill before the transaction."""
    return list_shards(shutil.copytree(_interrupted, tmp_path, dirs_exist_ok=True))[1]


def test_writer_adopts_an_orphan_shard_with_all_rows(tmp_path: Path, orphan: Path) -> None:
    with make_writer(tmp_path) as writer:
        (note,) = writer.notes
        assert note.startswith(f"adopted {orphan.name}: 4 ")
        assert all(writer.holds(make_key(number)) for number in range(8))
        writer.update_images([make_image(number) for number in range(8)], [])
    np.testing.assert_array_equal(read_sorted(FeatureStore(tmp_path)), make_features(range(8)))


def test_writer_moves_a_damaged_orphan_to_quarantine(tmp_path: Path, orphan: Path) -> None:
    flip_byte(orphan, orphan.stat().st_size // 2, 4)
    data = orphan.read_bytes()
    with make_writer(tmp_path) as writer:
        (note,) = writer.notes
        assert not writer.holds(make_key(4))
    assert orphan.name in note
    assert (tmp_path / QUARANTINE_FOLDER / orphan.name).read_bytes() == data
    assert len(list_shards(tmp_path)) == 1


def test_writer_keeps_an_orphan_that_cannot_be_opened_now(
    tmp_path: Path, orphan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def refuse(path: str | Path, *arguments: Any, **options: Any) -> int:
        if Path(path).name == orphan.name:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_file(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with make_writer(tmp_path):
            pass
    assert orphan.exists()
    with make_writer(tmp_path) as writer:
        assert writer.holds(make_key(7))


@pytest.mark.parametrize("kind", ["other fingerprint", "known rows", "text file"])
def test_writer_moves_other_files_in_the_shards_folder_to_quarantine(tmp_path: Path, kind: str) -> None:
    store = copy_store(tmp_path / "store", range(4))
    (shard,) = list_shards(store)
    foreign = shard.with_name(shard.name.replace("000001", "000009"))
    if kind == "other fingerprint":
        (source,) = list_shards(copy_store(tmp_path / "other", range(9, 10), cut="mixed6"))
        foreign = shard.with_name(source.name.replace("000001", "000009"))
        shutil.copy(source, foreign)
    elif kind == "known rows":
        shutil.copy(shard, foreign)
    else:
        foreign = shard.with_name("notes.txt")
        foreign.write_text("x")
    data = foreign.read_bytes()
    with make_writer(store) as writer:
        assert foreign.name in writer.notes[0]
        assert not writer.holds(make_key(9))
    assert list_shards(store) == [shard]
    assert (store / QUARANTINE_FOLDER / foreign.name).read_bytes() == data


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-10])])
def test_writer_drops_only_the_rows_of_a_lost_shard(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    copy_store(tmp_path, range(8))
    shard = list_shards(tmp_path)[0]
    damage(shard)
    with make_writer(tmp_path) as writer:
        (note,) = writer.notes
        assert shard.name in note
        assert " 4 " in note
        assert [writer.holds(make_key(number)) for number in range(8)] == [False] * 4 + [True] * 4
    assert [example.path for example in FeatureStore(tmp_path).examples] == [
        make_image(number).path for number in (4, 6, 5, 7)
    ]


def test_writer_drops_the_rows_of_exchanged_shards(tmp_path: Path) -> None:
    copy_store(tmp_path, range(10))
    one, _, short = list_shards(tmp_path)
    data_one, data_short = one.read_bytes(), short.read_bytes()
    one.write_bytes(data_short)
    short.write_bytes(data_one)
    with make_writer(tmp_path) as writer:
        assert [writer.holds(make_key(number)) for number in range(10)] == [False] * 4 + [True] * 4 + [False] * 2


def test_writer_shards_without_catalog_are_an_error(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    (tmp_path / CATALOG_NAME).unlink()
    with raises(CatalogDamagedError, where=tmp_path), make_writer(tmp_path):
        pass
    assert len(list_shards(tmp_path)) == 1


def test_move_to_quarantine_same_names_are_numbered(tmp_path: Path) -> None:
    for content in ("one", "two", "three"):
        (tmp_path / "file").write_text(content)
        move_to_quarantine(tmp_path, tmp_path / "file")
    found = {path.name: path.read_text() for path in (tmp_path / QUARANTINE_FOLDER).iterdir()}
    assert found == {"file": "one", "file.2": "two", "file.3": "three"}


def test_remove_shard_keeps_the_other_shards(tmp_path: Path) -> None:
    copy_store(tmp_path, range(8))
    catalog = Catalog(tmp_path / CATALOG_NAME, writable=True)
    catalog.remove_shard(1)
    assert [shard.number for shard in catalog.read_shards()] == [2]
    assert set(catalog.read_features()) == {make_key(number) for number in range(4, 8)}
    catalog.close()


def test_writer_adopts_shards_with_used_numbers_under_new_numbers(tmp_path: Path) -> None:
    one, two = copy_store(tmp_path / "one", range(8)), copy_store(tmp_path / "two", range(100, 108))
    for path in list_shards(two):
        shutil.copy(path, one / SHARD_FOLDER)
    with make_writer(one) as writer:
        assert all(writer.holds(make_key(number)) for number in (*range(8), *range(100, 108)))
        writer.update_images([make_image(number) for number in range(100, 108)], [])
    store = FeatureStore(one)
    assert [shard.number for shard in store.shards] == [1, 2, 3, 4]
    assert [path.name for path in list_shards(one)] == [shard.name for shard in store.shards]
    np.testing.assert_array_equal(read_sorted(store), make_features([*range(8), *range(100, 108)]))
    assert not (one / QUARANTINE_FOLDER).exists()


def test_writer_keeps_foreign_files_with_partial_names(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    for folder in (tmp_path, tmp_path / SHARD_FOLDER):
        (folder / ".partial-run").mkdir()
        (folder / ".partial-run" / "thesis.txt").write_text("mine")
        (folder / ".partial-notes.txt").write_text("mine")
    fill_store(tmp_path, range(4, 8))
    assert len(FeatureStore(tmp_path).examples) == 8
    for folder in (tmp_path, tmp_path / SHARD_FOLDER):
        assert (folder / ".partial-run" / "thesis.txt").read_text() == "mine"
        assert (folder / ".partial-notes.txt").read_text() == "mine"


@pytest.mark.parametrize("write", [lambda store: fill_store(store, range(4, 8)), rebuild_catalog])
def test_writer_lock_file_that_is_a_link_is_an_error(tmp_path: Path, write: Callable[[Path], object]) -> None:
    store = copy_store(tmp_path / "store", range(4))
    target = tmp_path / "target.txt"
    target.write_text("mine")
    (store / "LOCK").unlink()
    (store / "LOCK").symlink_to(target)
    with raises(StoreWriteError, where=store):
        write(store)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("name", [".partial-features.h5", ".partial-catalog.sqlite"])
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_writer_keeps_a_link_or_folder_with_the_name_of_its_partial_file(tmp_path: Path, name: str, kind: str) -> None:
    store = copy_store(tmp_path / "store", range(4))
    target = tmp_path / "target.txt"
    target.write_text("mine")
    if kind == "link":
        (store / name).symlink_to(target)
    else:
        (store / name).mkdir()
    fill_store(store, range(4, 8))
    assert rebuild_catalog(store) == (8, [])
    assert target.read_text() == "mine"
    assert os.path.lexists(store / name)
    assert [path.name for path in store.iterdir() if path.name.startswith(".")] == [name]
