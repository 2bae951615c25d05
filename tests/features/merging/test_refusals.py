"""Merges that are refused: the error names what and where, and nothing is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from base.lock import hold_write_lock
from features.catalog.catalog import CATALOG_NAME
from features.labels import LabelSource
from features.maintenance.recover import list_shard_files
from features.store import FeatureStore
from tests.commands import CommandResult
from tests.features.merging.parts import FOLDER, assert_whole, list_numbers, make_part, make_parts, merge
from tests.features.stores import add_views, fill_store, flip_byte
from tests.files import limit_file_size, read_files

TABLE = LabelSource("labels.csv", "ab" * 32, "path", ("label",))


@pytest.fixture(scope="module")
def shared_parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Stores of the two parts; must not be changed."""
    return make_parts(tmp_path_factory.mktemp("parts"), 2)


@pytest.fixture
def parts(shared_parts: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of `shared_parts`."""
    return [shutil.copytree(part, tmp_path / part.name) for part in shared_parts]


def assert_refused(result: CommandResult, kind: str, where: object, store: Path) -> None:
    assert (result.status, result.json["type"], result.json["where"]) == (1, kind, str(where))
    assert not store.exists()


@pytest.mark.parametrize(
    ("kind", "options", "mine", "other"),
    [
        ("FingerprintMismatchError", {"precision": "bfloat16"}, "float32", "bfloat16"),
        ("FingerprintMismatchError", {"weights_sha256": "cd" * 32}, "abababababab…", "cdcdcdcdcdcd…"),
        ("FeatureStoreError", {"folder": "41 pictures"}, FOLDER, "41 pictures"),
        ("FeatureStoreError", {"labels": TABLE}, "class folders", "labels.csv"),
        ("FeatureStoreError", {"views": 2}, "1", "2"),
    ],
)
def test_merge_of_parts_with_other_options_is_refused_with_both_values(
    kind: str, options: dict[str, Any], mine: str, other: str, parts: list[Path], tmp_path: Path
) -> None:
    shutil.rmtree(parts[1])
    make_part(parts[1], "2/2", **options)
    result = merge(*parts, "--into", tmp_path / "store", "--incomplete")
    assert_refused(result, kind, parts[1], tmp_path / "store")
    assert mine in result.json["expected"]
    assert other in result.json["got"]


def test_merge_of_a_part_of_another_count_is_refused(parts: list[Path], tmp_path: Path) -> None:
    other = make_part(tmp_path / "other", "3/8")
    assert_refused(merge(*parts, other, "--into", tmp_path / "store"), "FeatureStoreError", other, tmp_path / "store")


def test_merge_without_a_part_is_refused_with_its_number(parts: list[Path], tmp_path: Path) -> None:
    result = merge(parts[0], "--into", tmp_path / "store")
    assert_refused(result, "FeatureStoreError", "PART", tmp_path / "store")
    assert "2/2" in result.json["got"]


def test_merge_of_an_unfinished_part_is_refused(parts: list[Path], tmp_path: Path) -> None:
    unfinished = make_part(tmp_path / "unfinished", "2/2", pending=list_numbers("2/2")[:3])
    result = merge(parts[0], unfinished, "--into", tmp_path / "store")
    assert_refused(result, "FeatureStoreError", unfinished, tmp_path / "store")
    assert "3" in result.json["got"]


def test_merge_of_a_part_with_a_lost_shard_is_refused(parts: list[Path], tmp_path: Path) -> None:
    lost = list_shard_files(parts[1])[0]
    lost.unlink()
    assert_refused(merge(*parts, "--into", tmp_path / "store"), "ShardDamagedError", lost, tmp_path / "store")


def test_merge_of_the_same_part_with_another_content_is_refused(parts: list[Path], tmp_path: Path) -> None:
    other = make_part(tmp_path / "other", "2/2", shift=100)
    result = merge(*parts, other, "--into", tmp_path / "store")
    assert_refused(result, "FeatureStoreError", other, tmp_path / "store")
    assert ".jpg" in result.json["expected"]


def test_merge_of_the_same_part_with_the_same_content_is_accepted(parts: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(parts[1], tmp_path / "copy")
    assert merge(*parts, copy, "--into", tmp_path / "store").status == 0
    assert_whole(tmp_path / "store")


def test_merge_of_a_whole_store_and_parts_is_refused(parts: list[Path], tmp_path: Path) -> None:
    fill_store(tmp_path / "whole", range(8))
    result = merge(*parts, tmp_path / "whole", "--into", tmp_path / "store")
    assert (result.status, result.json["type"]) == (1, "FeatureStoreError")
    assert not (tmp_path / "store").exists()


def test_merge_of_two_stores_with_another_content_of_a_path_is_refused(tmp_path: Path) -> None:
    one, other = make_part(tmp_path / "1", "", range(8)), make_part(tmp_path / "2", "", range(4, 12), shift=1)
    assert_refused(merge(one, other, "--into", tmp_path / "store"), "FeatureStoreError", other, tmp_path / "store")
    assert merge(other, "--into", one).json["where"] == str(other)


def test_merge_of_a_part_with_the_picture_of_another_part_is_refused(parts: list[Path], tmp_path: Path) -> None:
    other = make_part(tmp_path / "other", "2/2", range(40))
    result = merge(parts[0], other, "--into", tmp_path / "store")
    assert_refused(result, "FeatureStoreError", other, tmp_path / "store")


@pytest.mark.parametrize("name", ["missing", "part-1/shards"])
def test_merge_of_a_path_without_a_store_is_refused(name: str, parts: list[Path], tmp_path: Path) -> None:
    path = tmp_path / name
    assert_refused(merge(*parts, path, "--into", tmp_path / "store"), "StoreMissingError", path, tmp_path / "store")


def test_merge_of_a_part_that_is_being_written_is_refused(parts: list[Path], tmp_path: Path) -> None:
    with hold_write_lock(parts[1]):
        result = merge(*parts, "--into", tmp_path / "store")
    assert_refused(result, "StoreLockedError", parts[1], tmp_path / "store")


def test_merge_into_a_store_that_is_being_written_is_refused(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with hold_write_lock(tmp_path / "store"):
        result = merge(*parts, "--into", tmp_path / "store")
    assert (result.status, result.json["type"]) == (1, "StoreLockedError")


def test_merge_into_one_of_the_parts_is_a_usage_error(parts: list[Path]) -> None:
    result = merge(*parts, "--into", parts[1])
    assert (result.status, result.json["where"]) == (2, "--into")


def test_merge_into_the_folder_of_cut_layers_of_a_part_is_a_usage_error(tmp_path: Path) -> None:
    parts = [make_part(tmp_path / f"part-{number}" / "mixed7", f"{number}/2") for number in (1, 2)]
    result = merge(*parts, "--into", tmp_path / "part-1")
    assert (result.status, result.json["where"]) == (2, "--into")


def test_merge_of_a_part_that_lacks_views_is_refused(tmp_path: Path) -> None:
    parts = [make_part(tmp_path / f"part-{number}", f"{number}/2", views=2) for number in (1, 2)]
    unfinished = make_part(tmp_path / "other", "2/2")
    add_views(unfinished, range(list_numbers("2/2")[0], list_numbers("2/2")[0] + 1), range(1, 2))
    assert_refused(
        merge(parts[0], unfinished, "--into", tmp_path / "store"), "FeatureStoreError", unfinished, tmp_path / "store"
    )
    assert merge(parts[0], unfinished, "--into", tmp_path / "store", "--incomplete").json["missing"] == [2]
    assert merge(*parts, "--into", tmp_path / "store").json["missing"] == []


def test_merge_into_a_store_with_other_features_is_refused(parts: list[Path], tmp_path: Path) -> None:
    store = make_part(tmp_path / "store", "", range(40), precision="bfloat16")
    before = read_files(store)
    result = merge(*parts, "--into", store)
    assert (result.status, result.json["type"], result.json["where"]) == (1, "FingerprintMismatchError", str(parts[0]))
    assert read_files(store) == before


def test_merge_into_a_folder_with_other_files_is_refused(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/letter.txt").write_text("Dear")
    result = merge(*parts, "--into", tmp_path / "store")
    assert (result.status, result.json["type"]) == (1, "StoreMissingError")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["letter.txt"]


def test_merge_of_parts_with_different_cuts_is_refused(tmp_path: Path) -> None:
    for cut in ("mixed5", "mixed7"):
        make_part(tmp_path / "1" / cut, "1/2", cut=cut)
    make_part(tmp_path / "2/mixed5", "2/2", cut="mixed5")
    result = merge(tmp_path / "1", tmp_path / "2", "--into", tmp_path / "store")
    assert_refused(result, "StoreMissingError", tmp_path / "2", tmp_path / "store")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "link"])
def test_merge_of_a_damaged_shard_is_refused_and_continued_after_repair(
    damage: str, parts: list[Path], tmp_path: Path
) -> None:
    store, shard = tmp_path / "store", list_shard_files(parts[1])[0]
    intact = shard.read_bytes()
    if damage == "truncated":
        shard.write_bytes(intact[:-1])
    elif damage == "flipped":
        flip_byte(shard, len(intact) // 2)
    else:
        shard.rename(tmp_path / "elsewhere.h5")
        shard.symlink_to(tmp_path / "elsewhere.h5")

    result = merge(*parts, "--into", store)

    assert (result.status, result.json["type"], result.json["where"]) == (1, "ShardDamagedError", str(shard))
    if store.exists():
        assert FeatureStore(store).images == []
        assert not any(path.name.endswith(shard.name[7:]) for path in list_shard_files(store))
    shard.unlink()
    shard.write_bytes(intact)
    assert merge(*parts, "--into", store).status == 0
    assert_whole(store)


def test_merge_on_a_full_disk_is_refused_and_continued(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", fail)
    limit = list_shard_files(parts[0])[0].stat().st_size - 100
    with limit_file_size(limit):
        result = merge(*parts, "--into", tmp_path / "store")
    assert (result.status, result.json["type"]) == (1, "StoreWriteError")
    assert merge(*parts, "--into", tmp_path / "store").status == 0
    assert_whole(tmp_path / "store")


def test_merge_of_a_part_with_a_damaged_catalog_is_refused(parts: list[Path], tmp_path: Path) -> None:
    (parts[1] / CATALOG_NAME).write_bytes(b"no database" * 100)
    result = merge(*parts, "--into", tmp_path / "store")
    assert_refused(result, "CatalogDamagedError", parts[1] / CATALOG_NAME, tmp_path / "store")
