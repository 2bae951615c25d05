"""Check a store, quarantine damaged shards, rebuild the catalog."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import CatalogDamagedError, FeatureStoreError
from features.catalog.catalog import CATALOG_NAME
from features.maintenance.check import Problem, find_problems, list_notes, quarantine_shards, rebuild_catalog
from features.schema import QUARANTINE_FOLDER, VIEW_NAME, Features
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.commands import run_command
from tests.errors import raises
from tests.features.stores import (
    add_features,
    copy_store,
    find_all_problems,
    flip_byte,
    make_features,
    make_fingerprint,
    make_image,
    make_key,
    make_origin,
    make_writer,
    read_sorted,
)
from tests.systems import make_pipe

pytestmark = pytest.mark.unit


def find(store: Path, *, read_data: bool = True, images: Path | None = None) -> list[Problem]:
    return find_problems(store, read_data=read_data, images=images, advance=lambda _: None)


def list_shards(store: Path) -> list[Path]:
    return sorted((store / SHARD_FOLDER).iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Folder of a store of ten features in three shards."""
    return copy_store(tmp_path / "store", range(10))


def test_check_intact_store_has_no_problems(store: Path) -> None:
    assert find(store) == []
    assert find(store, read_data=False) == []
    assert list_notes(store) == []


@pytest.mark.parametrize("trial", range(60))
def test_check_flipped_byte_is_found_or_has_no_effect(store: Path, trial: int) -> None:
    expected = read_by_path(store)
    files = [store / CATALOG_NAME, *list_shards(store)]
    file, rng = files[trial % len(files)], random.Random(trial)
    flip_byte(file, rng.randrange(file.stat().st_size), rng.randrange(1, 256))
    is_found = find(store) != []
    assert is_found or file.name == CATALOG_NAME
    try:
        found = read_by_path(store)
    except FeatureStoreError:
        assert is_found
        return
    # No row uses this byte of the catalog.
    assert found.keys() == expected.keys()
    for path, feature in found.items():
        np.testing.assert_array_equal(feature, expected[path])


def read_by_path(folder: Path) -> dict[tuple[str, str], Features]:
    """Read the feature of each example by path and label."""
    store = FeatureStore(folder)
    keys = [(example.path, example.label) for example in store.examples]
    return dict(zip(keys, store.read(store.examples), strict=True))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def overwrite_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9] + b"overwrote")


@pytest.mark.parametrize(
    ("damage", "problem"), [(Path.unlink, "missing"), (truncate, "bytes"), (overwrite_end, "SHA-256")]
)
def test_quarantine_damaged_shard_removes_only_its_rows(
    store: Path, damage: Callable[[Path], None], problem: str
) -> None:
    shard = list_shards(store)[0]
    damage(shard)
    (found,) = find(store)
    assert (found.where, found.shard) == (str(shard), 1)
    assert problem in found.what
    assert quarantine_shards(store, [found]) == 4
    assert find(store) == []
    assert not shard.exists()
    assert len(list_notes(store)) == 1
    assert FeatureStore(store).num_pending == 4
    with make_writer(store) as writer:
        assert [writer.holds(make_key(number)) for number in range(10)] == [False] * 4 + [True] * 6


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE images SET label = 'dogs' WHERE path = 'cats/00000.jpg'", "images"),
        ("DELETE FROM images WHERE path = 'cats/00000.jpg'", "images"),
        ("DELETE FROM meta WHERE key = 'origin'", "meta"),
    ],
)
def test_check_and_readers_detect_edited_catalog(store: Path, statement: str, table: str) -> None:
    with sqlite3.connect(store / CATALOG_NAME) as db:
        db.execute(statement)
    db.close()
    (problem,) = find(store)
    assert (problem.where, problem.shard) == (CATALOG_NAME, None)
    with raises(CatalogDamagedError, where=store / CATALOG_NAME) as caught:
        FeatureStore(store)
    assert table in caught.value.got


def test_writer_removes_digests_of_an_earlier_version(store: Path) -> None:
    (store / "SHA256SUMS").write_text("of an earlier version")
    assert find(store) == []
    assert list_notes(store) == []
    with make_writer(store):
        pass
    assert not (store / "SHA256SUMS").exists()


def test_check_missing_shards_folder_has_a_problem_for_each_shard(store: Path) -> None:
    shutil.rmtree(store / SHARD_FOLDER)
    assert [problem.shard for problem in find(store)] == [1, 2, 3]


def test_check_images_finds_edited_and_missing_pictures(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for number in range(10):
        path = folder / make_image(number).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(number).encode())
    assert find(store, images=folder) == []
    (folder / "cats/00002.jpg").write_bytes(b"edited")
    (folder / "dogs/00003.jpg").unlink()
    problems = find(store, images=folder)
    assert [problem.where for problem in problems] == [str(folder / "cats/00002.jpg"), str(folder / "dogs/00003.jpg")]
    assert [problem.shard for problem in problems] == [None, None]


def test_check_pipe_among_the_pictures_does_not_block(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "cats").mkdir(parents=True)
    make_pipe(folder / make_image(2).path)
    assert f"{folder}/{make_image(2).path}" in [problem.where for problem in find(store, images=folder)]


def test_check_orphan_and_partial_files_are_notes_only(store: Path) -> None:
    orphan = list_shards(store)[0]
    copy = shutil.copy(orphan, orphan.with_name(orphan.name.replace("000001", "000008")))
    partial = store / SHARD_FOLDER / ".partial-x"
    partial.write_bytes(b"")
    assert find(store) == []
    assert [note.split(": ")[0] for note in list_notes(store)] == [str(partial), str(copy)]


def test_rebuild_catalog_has_every_feature_and_the_next_run_adds_the_images(store: Path) -> None:
    before = FeatureStore(store).contents
    (store / CATALOG_NAME).write_bytes(b"overwritten")
    assert rebuild_catalog(store) == (10, [])
    after = FeatureStore(store).contents
    assert (after.fingerprint, after.origin) == (before.fingerprint, before.origin)
    assert (after.locations, after.shards) == (before.locations, before.shards)
    with make_writer(store) as writer:
        writer.update_images([make_image(number) for number in range(10)], [])
    np.testing.assert_array_equal(read_sorted(FeatureStore(store)), make_features(range(10)))
    assert (store / QUARANTINE_FOLDER / CATALOG_NAME).read_bytes() == b"overwritten"


def test_check_command_intact_store_exits_0(store: Path) -> None:
    done = run_command("features.__main__", "check", store, "--read-data", "--json")
    assert (done.status, done.json) == (0, {"ok": True, "problems": [], "notes": []})


def test_check_command_damaged_shard_exits_1_with_the_problem(store: Path) -> None:
    shard = list_shards(store)[1]
    flip_byte(shard, 100)
    done = run_command("features.__main__", "check", store, "--read-data", "--json")
    assert (done.status, done.json["ok"]) == (1, False)
    assert [problem["where"] for problem in done.json["problems"]] == [str(shard)]
    assert run_command("features.__main__", "check", store).status == 0


def test_check_command_quarantine_counts_lost_features(store: Path) -> None:
    flip_byte(list_shards(store)[1], 100)
    done = run_command("features.__main__", "check", store, "--read-data", "--quarantine", "--json")
    assert (done.status, done.json["forgotten"]) == (1, 4)
    assert find_all_problems(store) == []


def test_check_command_rebuild_catalog_repairs_a_missing_catalog(store: Path) -> None:
    (store / CATALOG_NAME).unlink()
    done = run_command("features.__main__", "check", store, "--json")
    assert (done.status, done.json["type"], done.json["where"]) == (1, "StoreMissingError", str(store))
    assert run_command("features.__main__", "check", store, "--rebuild-catalog", "--json").status == 0
    assert FeatureStore(store).num_features == 10


@pytest.mark.parametrize("kind", ["missing", "file", "empty folder"])
def test_check_command_path_without_store_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "path"
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "empty folder":
        path.mkdir()
    done = run_command("features.__main__", "check", path, "--json")
    assert (done.status, done.json["type"], done.json["where"]) == (1, "StoreMissingError", str(path))


def test_quarantine_with_a_damaged_view_writes_a_new_view(store: Path) -> None:
    shard = list_shards(store)[1]
    flip_byte(shard, 300)
    (store / VIEW_NAME).write_bytes(b"x")
    problems = find(store)
    assert [problem.where for problem in problems] == [str(shard)]
    assert quarantine_shards(store, problems) == 4
    assert find(store) == []
    assert (store / VIEW_NAME).stat().st_size > 1


def test_check_during_an_extraction_finds_no_problem(store: Path) -> None:
    with make_writer(store) as writer:
        writer.update_images([make_image(50)], [])
        assert find(store, read_data=False) == []
    (note,) = list_notes(store)
    assert note.startswith("1 ")


def test_quarantine_shards_that_cannot_be_opened_moves_none(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = os.open

    def refuse(path: str | Path, *arguments: Any, **options: Any) -> int:
        if Path(path).parent.name == SHARD_FOLDER:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_file(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        problems = find(store)
    assert len(problems) == 3
    assert quarantine_shards(store, problems) == 0
    assert find(store) == []


def test_rebuild_catalog_uses_the_fingerprint_of_most_features(store: Path) -> None:
    # The name of the foreign shard sorts before those of the store.
    other = store.parent / "other"
    with FeatureWriter(other, make_fingerprint(image_size=80), make_origin()) as writer:
        add_features(writer, [1])
        writer.commit()
    (shard,) = list_shards(other)
    copy = Path(shutil.copy(shard, store / SHARD_FOLDER / shard.name.replace("000001", "000000")))
    num_features, (note,) = rebuild_catalog(store)
    assert num_features == 10
    assert copy.name in note
    assert FeatureStore(store).fingerprint == make_fingerprint()
    assert (store / QUARANTINE_FOLDER / copy.name).exists()


def test_rebuild_catalog_two_shards_with_the_same_number_are_both_listed(store: Path) -> None:
    copy_store(store.parent / "other", range(100, 104))
    (shard,) = list_shards(store.parent / "other")
    shutil.copy(shard, store / SHARD_FOLDER)
    assert rebuild_catalog(store) == (14, [])
    assert [shard.number for shard in FeatureStore(store).shards] == [1, 2, 3, 4]
    assert find(store) == []
