"""Merge of the stores of parts: the result, repetition, interruption, and parts that come later."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from base.system import sync_folder
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.labels import LabelSource
from features.maintenance.recover import list_shard_files
from features.merging import merge as merging
from features.merging.place import place_shard
from features.parts import PART_KEY
from features.quantized import QuantizedModel
from features.schema import BACKBONE_FOLDER, ImageStatus
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.commands import run_command
from tests.features.merging.parts import assert_whole, list_numbers, make_part, make_parts, merge
from tests.features.stores import add_features, find_all_problems, make_image, make_writer
from tests.files import read_files

COUNT = 4


def read_meta(store: Path) -> dict[str, str]:
    with closing(Catalog(store / CATALOG_NAME, writable=False)) as catalog:
        return catalog.read_all_meta()


@pytest.fixture(scope="module")
def shared_parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Stores of the four parts; must not be changed."""
    return make_parts(tmp_path_factory.mktemp("parts"), COUNT)


@pytest.fixture
def parts(shared_parts: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of `shared_parts`."""
    return [shutil.copytree(part, tmp_path / part.name) for part in shared_parts]


def test_merge_gives_the_pictures_and_features_of_the_whole_folder(parts: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    before = {part: read_files(part) for part in parts}
    num_shards = sum(len(list_shard_files(part)) for part in parts)

    result = merge(*reversed(parts), "--into", store)

    assert result.status == 0
    assert result.json == {
        "store": str(store),
        "parts": COUNT,
        "missing": [],
        "linked": num_shards,
        "copied": 0,
        "pictures": 40,
    }
    assert_whole(store)
    meta = read_meta(store)
    assert PART_KEY not in meta
    assert (meta["images_folder"], meta["weights"]) == (f"/mount/{parts[0].name}/pictures", "random")
    assert {part: read_files(part) for part in parts} == before
    assert {path.stat().st_nlink for path in list_shard_files(store)} == {2}


def test_merge_again_changes_nothing(parts: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    merge(*parts, "--into", store)
    before = read_files(store)
    for given in (parts, parts[1:3]):
        result = merge(*given, given[0], "--into", store)
        assert (result.status, result.json["linked"], result.json["pictures"]) == (0, 0, 0)
        assert result.json["missing"] == []
    assert read_files(store) == before


def test_merge_to_another_file_system_copies_the_shards(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", fail)
    result = merge(*parts, "--into", tmp_path / "store")
    assert (result.json["linked"], result.json["copied"]) == (0, len(list_shard_files(tmp_path / "store")))
    assert_whole(tmp_path / "store")
    assert {path.stat().st_nlink for path in list_shard_files(tmp_path / "store")} == {1}


def test_merge_of_parts_with_labels_of_a_table_records_the_table(tmp_path: Path) -> None:
    table = LabelSource("labels.csv", "ab" * 32, "path", ("label",))
    parts = [make_part(tmp_path / f"{number}", f"{number}/2", labels=table) for number in (1, 2)]
    assert merge(*parts, "--into", tmp_path / "store").status == 0
    assert FeatureStore(tmp_path / "store").contents.labels == table


def test_merge_keeps_failed_pictures(tmp_path: Path) -> None:
    broken = list_numbers("1/2")[:2]
    first = make_part(tmp_path / "1", "1/2", failed=broken)
    assert merge(first, make_part(tmp_path / "2", "2/2"), "--into", tmp_path / "store").status == 0
    failed = [image for image in FeatureStore(tmp_path / "store").images if image.status is ImageStatus.FAILED]
    assert {image.path for image in failed} == {make_image(number).path for number in broken}
    assert {image.reason for image in failed} == {"truncated"}


def test_merge_of_equal_pictures_in_two_parts_keeps_one_row(tmp_path: Path) -> None:
    # The content of each picture of part 2 is that of another one, which may be in part 1.
    first = make_part(tmp_path / "1", "1/2")
    second = make_part(tmp_path / "2", "2/2", shift=1)
    assert merge(first, second, "--into", tmp_path / "store").status == 0
    store = FeatureStore(tmp_path / "store")
    contents = {image.content_hash for image in store.images}
    assert len(store) == 40
    assert store.num_features == len(contents) < 40
    assert find_all_problems(tmp_path / "store") == []


def test_merge_of_empty_parts_leaves_the_features_of_the_others(parts: list[Path], tmp_path: Path) -> None:
    count = 200
    stores = [make_part(tmp_path / f"p{number}", f"{number}/{count}") for number in range(1, 4)]
    assert any(not list_numbers(f"{number}/{count}") for number in range(1, 4))
    result = merge(*stores, "--into", tmp_path / "store", "--incomplete")
    assert (result.status, len(result.json["missing"])) == (0, count - 3)


def test_merge_of_some_parts_records_them_and_a_later_merge_adds_the_others(parts: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = merge(parts[0], parts[2], "--into", store, "--incomplete")
    assert (result.status, result.json["missing"]) == (0, [2, 4])
    assert read_meta(store)[PART_KEY] == "1,3/4"
    assert run_command("features.__main__", "info", store, "--json").json["part"] == "1,3/4"
    assert merge(parts[0], "--into", store).status == 1
    assert merge(parts[0], "--into", store, "--incomplete").json["pictures"] == 0
    assert merge(parts[1], parts[3], "--into", store).json["missing"] == []
    assert not read_meta(store)[PART_KEY]
    assert_whole(store)


def test_merge_of_merged_stores_gives_the_whole_folder(parts: list[Path], tmp_path: Path) -> None:
    for name, given in {"a": parts[:2], "b": parts[2:]}.items():
        assert merge(*given, "--into", tmp_path / name, "--incomplete").status == 0
    assert merge(tmp_path / "a", tmp_path / "b", "--into", tmp_path / "store").status == 0
    assert_whole(tmp_path / "store")


def test_merge_of_an_unfinished_part_is_completed_later(parts: list[Path], tmp_path: Path) -> None:
    store, pending = tmp_path / "store", list_numbers("2/4")[:3]
    unfinished = make_part(tmp_path / "unfinished", "2/4", pending=pending)
    given = [parts[0], unfinished, *parts[2:]]
    assert merge(*given, "--into", store, "--incomplete").json["missing"] == [2]
    assert FeatureStore(store).num_pending == len(pending)
    assert merge(parts[1], "--into", store).json == {
        "store": str(store),
        "parts": 4,
        "missing": [],
        "linked": 1,
        "copied": 0,
        "pictures": len(pending),
    }
    assert_whole(store)
    # The earlier state of a part does not replace the later one.
    assert merge(unfinished, "--into", store, "--incomplete").json["pictures"] == 0
    assert_whole(store)


def test_merge_of_a_changed_folder_adds_and_removes_pictures(parts: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    merge(*parts, "--into", store)
    renewed = [
        make_part(
            tmp_path / f"new-{number}",
            f"{number}/4",
            [n for n in list_numbers(f"{number}/4", 48) if n > 3],
            folder="44 pictures",
        )
        for number in range(1, 5)
    ]
    assert merge(*renewed[:3], "--into", store).status == 1
    assert merge(*renewed, "--into", store).json["pictures"] == 8 + 4
    paths = {image.path for image in FeatureStore(store).images}
    assert paths == {make_image(number).path for number in range(4, 48)}


def test_merge_of_the_same_parts_keeps_what_the_store_changed_later(parts: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    merge(*parts, "--into", store)
    renamed = make_image(0)._replace(label="tigers", split="test")
    with make_writer(store) as writer:
        writer.update_images([make_image(40), renamed], [make_image(1).path])
        add_features(writer, [40])
        writer.commit()
    before = FeatureStore(store).images
    result = merge(*parts, "--into", store)
    assert (result.status, result.json["pictures"], FeatureStore(store).images) == (0, 0, before)


def test_merge_when_the_folder_returns_to_an_earlier_state_restores_its_pictures(
    parts: list[Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    merge(*parts, "--into", store)
    # An extraction of the whole folder reads its second state before the parts do.
    with make_writer(store) as writer:
        writer.update_images([], [make_image(number).path for number in range(4)])
    second = [
        make_part(
            tmp_path / f"second-{number}",
            f"{number}/4",
            [n for n in list_numbers(f"{number}/4") if n > 3],
            folder="36 pictures",
        )
        for number in range(1, 5)
    ]
    assert merge(*second, "--into", store).json["pictures"] == 0
    assert merge(*parts, "--into", store).json["pictures"] == 4
    assert_whole(store)


@pytest.mark.parametrize("step", ["first shard", "all shards", "transaction", "view"])
def test_merge_after_a_kill_is_continued(
    step: str, parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    update = FeatureWriter.update_images
    calls: list[str] = []

    def stop(name: str, function: Callable[..., object], at: int) -> Callable[..., object]:
        def call(*given: object) -> object:
            calls.append(name)
            if calls.count(name) == at:
                raise KeyboardInterrupt
            return function(*given)

        return call

    with monkeypatch.context() as patch:
        # The third update of the pictures is in the middle of the transaction.
        if step == "first shard":
            patch.setattr(merging, "place_shard", stop("place", place_shard, 2))
        elif step == "all shards":
            patch.setattr(merging, "sync_folder", stop("sync", sync_folder, 1))
        elif step == "transaction":
            patch.setattr(FeatureWriter, "update_images", stop("update", update, 3))
        else:
            patch.setattr("features.store_writer.update_view", stop("view", update, 1))
        assert merge(*parts, "--into", store).status == 130
    if step != "view":
        assert FeatureStore(store).images == []
    assert merge(*parts, "--into", store).status == 0
    assert_whole(store)
    assert len(list_shard_files(store)) == sum(len(list_shard_files(part)) for part in parts)


def test_merge_of_stores_that_are_no_parts_has_the_pictures_of_all(tmp_path: Path) -> None:
    one, other = make_part(tmp_path / "1", "", range(25)), make_part(tmp_path / "2", "", range(20, 40))
    assert merge(one, other, "--into", tmp_path / "store").json["pictures"] == 40
    assert_whole(tmp_path / "store")
    assert merge(other, "--into", one).status == 0
    assert_whole(one)
    assert merge(other, "--into", one).json["linked"] == 0


def test_merge_at_several_cuts_merges_each(tmp_path: Path) -> None:
    for number in (1, 2):
        for cut in ("mixed5", "mixed7"):
            make_part(tmp_path / f"{number}" / cut, f"{number}/2", cut=cut)
    result = merge(tmp_path / "1", tmp_path / "2", "--into", tmp_path / "store")
    assert result.status == 0
    assert [found["missing"] for found in result.json["cuts"].values()] == [[], []]
    for cut in ("mixed5", "mixed7"):
        assert_whole(tmp_path / "store" / cut)


def test_merge_of_int8_features_keeps_the_quantised_backbone(tmp_path: Path) -> None:
    model = QuantizedModel(b"<net/>", b"weights")
    parts = [
        make_part(tmp_path / f"{number}", f"{number}/2", precision="int8", calibration=model.digest)
        for number in (1, 2)
    ]
    folder = parts[1] / BACKBONE_FOLDER
    folder.mkdir()
    (folder / "int8.xml").write_bytes(model.graph)
    (folder / "int8.bin").write_bytes(model.weights)
    assert merge(*parts, "--into", tmp_path / "store").status == 0
    assert read_files(tmp_path / "store" / BACKBONE_FOLDER) == read_files(folder)
    shutil.rmtree(folder)
    result = merge(*parts, "--into", tmp_path / "other")
    assert (result.status, result.json["type"]) == (1, "ModelDamagedError")
    assert not (tmp_path / "other").exists()
