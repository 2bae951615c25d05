"""What an interrupted run left is brought into order, never silently and never at the cost of a row."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import CatalogDamagedError, StoreWriteError
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.maintenance.check import rebuild_catalog
from features.schema import QUARANTINE_FOLDER, FeatureStatus
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from tests.features.stores import fill_store, make_features, make_fingerprint, make_image, make_key, make_writer


def list_shards(store: Path) -> list[Path]:
    return sorted((store / SHARD_FOLDER).iterdir())


def make_orphan(store: Path) -> Path:
    """Ends a store as a kill between a shard's rename and its transaction would: with a shard more than rows."""
    fill_store(store, range(4))
    before = (store / CATALOG_NAME).read_bytes()
    fill_store(store, range(4, 8))
    (store / CATALOG_NAME).write_bytes(before)
    return list_shards(store)[1]


def test_orphan_shard_is_adopted_with_all_its_rows(tmp_path: Path) -> None:
    orphan = make_orphan(tmp_path)
    with make_writer(tmp_path) as writer:
        assert writer.notes == [f"adopted {orphan.name}: 4 features of an interrupted run"]
        assert all(writer.holds(make_key(number)) for number in range(8))
        writer.update_images([make_image(number) for number in range(8)], [])
    store = FeatureStore(tmp_path)
    by_number = sorted(store.examples, key=lambda example: example.path[-9:])
    np.testing.assert_array_equal(store.read(by_number), make_features(range(8)))


def test_orphan_with_a_flipped_byte_goes_to_quarantine(tmp_path: Path) -> None:
    orphan = make_orphan(tmp_path)
    data = bytearray(orphan.read_bytes())
    data[len(data) // 2] ^= 4
    orphan.write_bytes(data)
    with make_writer(tmp_path) as writer:
        (note,) = writer.notes
        assert not writer.holds(make_key(4))
    assert "SHA-256" in note
    assert (tmp_path / QUARANTINE_FOLDER / orphan.name).read_bytes() == data
    assert len(list_shards(tmp_path)) == 1


def test_orphan_of_another_store_goes_to_quarantine(tmp_path: Path) -> None:
    fill_store(tmp_path / "one", range(4))
    from features.writer import FeatureWriter
    from tests.features.stores import make_origin

    with FeatureWriter(tmp_path / "two", make_fingerprint(cut="mixed6"), make_origin()) as writer:
        writer.add_features([make_key(9)], make_features(range(1)), [FeatureStatus.OK])
        writer.commit()
    (stranger,) = list_shards(tmp_path / "two")
    shutil.copy(stranger, tmp_path / "one" / SHARD_FOLDER / stranger.name.replace("000001", "000007"))
    with make_writer(tmp_path / "one") as writer:
        assert "belongs to another store" in writer.notes[0]
        assert not writer.holds(make_key(9))


def test_replayed_shard_whose_rows_are_known_goes_to_quarantine(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    (shard,) = list_shards(tmp_path)
    copy = shard.with_name(shard.name.replace("000001", "000009"))
    shutil.copy(shard, copy)
    with make_writer(tmp_path) as writer:
        assert "holds nothing new" in writer.notes[0]
    assert list_shards(tmp_path) == [shard]
    assert (tmp_path / QUARANTINE_FOLDER / copy.name).exists()


def test_stray_file_among_the_shards_goes_to_quarantine(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    (tmp_path / SHARD_FOLDER / "notes.txt").write_text("x")
    with make_writer(tmp_path) as writer:
        assert "notes.txt" in writer.notes[0]
    assert (tmp_path / QUARANTINE_FOLDER / "notes.txt").read_text() == "x"


@pytest.mark.parametrize("fault", ["deleted", "truncated"])
def test_lost_shard_is_said_and_only_its_rows_are_forgotten(tmp_path: Path, fault: str) -> None:
    fill_store(tmp_path, range(8))
    shard = list_shards(tmp_path)[0]
    if fault == "deleted":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-10])
    with make_writer(tmp_path) as writer:
        assert shard.name in writer.notes[0]
        assert "its 4 features are computed again" in writer.notes[0]
        assert [writer.holds(make_key(number)) for number in range(8)] == [False] * 4 + [True] * 4
    assert [example.path for example in FeatureStore(tmp_path).examples] == [
        make_image(number).path for number in (4, 6, 5, 7)
    ]


def test_swapped_shards_are_forgotten_and_quarantined_never_mixed_up(tmp_path: Path) -> None:
    fill_store(tmp_path, range(10))
    one, _, short = list_shards(tmp_path)
    data_one, data_short = one.read_bytes(), short.read_bytes()
    one.write_bytes(data_short)
    short.write_bytes(data_one)
    with make_writer(tmp_path) as writer:
        assert [writer.holds(make_key(number)) for number in range(10)] == [False] * 4 + [True] * 4 + [False] * 2


def test_lost_catalog_is_not_taken_for_an_empty_store(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    (tmp_path / CATALOG_NAME).unlink()
    with pytest.raises(CatalogDamagedError, match="--rebuild-catalog"), make_writer(tmp_path):
        pass
    assert len(list_shards(tmp_path)) == 1


def test_quarantine_keeps_files_of_the_same_name_apart(tmp_path: Path) -> None:
    from features.maintenance.recover import move_to_quarantine

    for content in ("one", "two", "three"):
        (tmp_path / "file").write_text(content)
        move_to_quarantine(tmp_path, tmp_path / "file")
    found = {path.name: path.read_text() for path in (tmp_path / QUARANTINE_FOLDER).iterdir()}
    assert found == {"file": "one", "file.2": "two", "file.3": "three"}


def test_forget_shard_leaves_the_others(tmp_path: Path) -> None:
    fill_store(tmp_path, range(8))
    catalog = Catalog(tmp_path / CATALOG_NAME, writable=True)
    catalog.remove_shard(1)
    assert [shard.number for shard in catalog.read_shards()] == [2]
    assert set(catalog.read_features()) == {make_key(number) for number in range(4, 8)}
    catalog.close()


def test_shards_of_another_store_whose_numbers_are_taken_are_adopted_under_new_ones(tmp_path: Path) -> None:
    fill_store(tmp_path / "one", range(8))
    fill_store(tmp_path / "two", range(100, 108))
    for path in list_shards(tmp_path / "two"):
        shutil.copy(path, tmp_path / "one" / SHARD_FOLDER)
    with make_writer(tmp_path / "one") as writer:
        assert all(writer.holds(make_key(number)) for number in (*range(8), *range(100, 108)))
        writer.update_images([make_image(number) for number in range(100, 108)], [])
    store = FeatureStore(tmp_path / "one")
    assert [shard.number for shard in store.shards] == [1, 2, 3, 4]
    assert [path.name for path in list_shards(tmp_path / "one")] == [shard.name for shard in store.shards]
    by_number = sorted(store.examples, key=lambda example: example.path[-9:])
    expected = np.concatenate([make_features(range(8)), make_features(range(100, 108))])
    np.testing.assert_array_equal(store.read(by_number), expected)
    assert not (tmp_path / "one" / QUARANTINE_FOLDER).exists()


def test_writer_leaves_partial_names_that_are_not_its_own(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    for folder in (tmp_path, tmp_path / SHARD_FOLDER):
        (folder / ".partial-run").mkdir()
        (folder / ".partial-run" / "thesis.txt").write_text("mine")
        (folder / ".partial-notes.txt").write_text("mine")
    fill_store(tmp_path, range(4, 8))
    assert len(FeatureStore(tmp_path).examples) == 8
    for folder in (tmp_path, tmp_path / SHARD_FOLDER):
        assert (folder / ".partial-run" / "thesis.txt").read_text() == "mine"
        assert (folder / ".partial-notes.txt").read_text() == "mine"


def test_writer_follows_no_lock_that_is_a_link(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", range(4))
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / "store" / "LOCK").unlink()
    (tmp_path / "store" / "LOCK").symlink_to(victim)
    with pytest.raises(StoreWriteError):
        fill_store(tmp_path / "store", range(4, 8))
    with pytest.raises(StoreWriteError):
        rebuild_catalog(tmp_path / "store")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", [".partial-features.h5", ".partial-catalog.sqlite"])
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_writer_with_an_entry_of_others_under_a_partial_name_goes_on_and_leaves_it(
    tmp_path: Path, name: str, kind: str
) -> None:
    store = tmp_path / "store"
    fill_store(store, range(4))
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    if kind == "link":
        (store / name).symlink_to(victim)
    else:
        (store / name).mkdir()
    fill_store(store, range(4, 8))
    assert rebuild_catalog(store) == (8, [])
    assert victim.read_text() == "mine"
    assert os.path.lexists(store / name)
    assert [path.name for path in store.iterdir() if path.name.startswith(".")] == [name]


def test_orphan_that_cannot_be_opened_now_is_left_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = make_orphan(tmp_path)
    real = os.open

    def refuse(path: str | Path, *arguments: Any, **options: Any) -> int:
        if Path(path).name == orphan.name:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with make_writer(tmp_path):
            pass
    assert orphan.exists()
    with make_writer(tmp_path) as writer:
        assert writer.holds(make_key(7))
