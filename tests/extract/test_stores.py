"""A folder's features go into a store only where they belong there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import FeatureStoreError, HeadstartError, StoreLockedError
from base.lock import hold_write_lock
from base.terminal import Console
from extract.__main__ import extract
from extract.config import ExtractConfig
from extract.engines import Engine, build_engine
from extract.run import extract_features
from extract.stores import OtherFolderError
from features.catalog.catalog import Catalog
from features.store import FeatureStore
from tests.inputs.folders import run_here
from tests.pictures import fill_folder


def configure(images: Path, store: Path, **options: Any) -> ExtractConfig:
    return ExtractConfig(images, store, weights="random", image_size=75, **options)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another folder, none of whose pictures is stored."""
    folder = tmp_path / "elsewhere/pictures"
    fill_folder(folder, {"train/cats": 2, "train/dogs": 2}, start=300)
    fill_folder(folder, {"validation/cats": 1, "validation/dogs": 1}, start=400)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dry_run", [True, False])
def test_extract_another_folder_into_a_store_is_refused_and_names_both(
    pictures: Path, store: Path, other: Path, quiet: Console, dry_run: bool
) -> None:
    extract_features(configure(pictures, store), quiet)
    before = read_files(store)
    with pytest.raises(OtherFolderError) as raised:
        extract(configure(other, store, dry_run=dry_run), quiet)
    assert raised.value.where == store
    assert str(pictures) in raised.value.expected
    assert str(other) in raised.value.got
    assert "--new-store" in raised.value.advice
    assert read_files(store) == before


def test_extract_folder_of_the_same_names_and_other_pictures_is_refused(
    pictures: Path, store: Path, tmp_path: Path, quiet: Console
) -> None:
    extract_features(configure(pictures, store), quiet)
    fill_folder(tmp_path / "new", {"train/cats": 12, "train/dogs": 12, "validation/cats": 6, "validation/dogs": 6})
    for path in (tmp_path / "new").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(OtherFolderError):
        extract_features(configure(tmp_path / "new", store), quiet)


def test_extract_folder_that_was_moved_goes_on_and_is_the_stores_folder(
    pictures: Path, store: Path, tmp_path: Path, quiet: Console
) -> None:
    extract_features(configure(pictures, store), quiet)
    moved = pictures.rename(tmp_path / "moved")
    (moved / "train/cats/000.jpg").unlink()
    result = extract_features(configure(moved, store), quiet)
    assert (result.computed, result.reused, result.removed) == (0, 35, 1)
    assert FeatureStore(store).images_folder == str(moved)


@pytest.mark.parametrize("is_other", [True, False])
def test_extract_new_store_keeps_the_one_that_is_there_under_another_name(
    pictures: Path, store: Path, other: Path, quiet: Console, is_other: bool
) -> None:
    images = other if is_other else pictures
    shards = [shard.sha256 for shard in FeatureStore(store).shards]
    result = extract_features(configure(images, store, cut="mixed0", new_store=True), quiet)
    assert (result.computed, result.reused) == (6 if is_other else 36, 0)
    assert FeatureStore(store).num_features == result.computed
    (aside,) = store.parent.glob("store-*")
    assert [shard.sha256 for shard in FeatureStore(aside).shards] == shards


def test_extract_new_store_where_there_is_none_makes_one(other: Path, tmp_path: Path, quiet: Console) -> None:
    result = extract_features(configure(other, tmp_path / "new", cut="mixed0,mixed1", new_store=True), quiet)
    assert result.computed == 6
    assert sorted(path.name for path in tmp_path.glob("new*")) == ["new"]


def test_extract_new_store_leaves_one_that_is_being_written_and_other_peoples_folders(
    store: Path, other: Path, tmp_path: Path, quiet: Console
) -> None:
    with hold_write_lock(store), pytest.raises(StoreLockedError):
        extract_features(configure(other, store, cut="mixed0", new_store=True), quiet)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    with pytest.raises(HeadstartError):
        extract_features(configure(other, tmp_path / "mine", cut="mixed0", new_store=True), quiet)
    assert not list(tmp_path.glob("store-*")) + list(tmp_path.glob("mine-*"))
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"


class Louder:
    """An engine whose features are 1.5 times another's, as those of a changed library."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, batch: Any) -> list[Any]:
        return [np.float32(1.5) * output for output in self._engine.run(batch)]


@pytest.mark.parametrize("is_changed", [True, False])
def test_extract_with_no_picture_to_compare_is_refused_and_leaves_the_shards(
    pictures: Path, store: Path, other: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, is_changed: bool
) -> None:
    extract_features(configure(pictures, store), quiet)
    shards = FeatureStore(store).shards
    shutil.rmtree(pictures)
    shutil.copytree(other, pictures)  # the same folder, all of whose pictures are others
    if is_changed:
        monkeypatch.setattr("extract.backbone.build_engine", lambda *given: Louder(build_engine(*given)))
    with pytest.raises(FeatureStoreError) as raised:
        extract_features(configure(pictures, store), quiet)
    assert "--new-store" in raised.value.advice
    assert FeatureStore(store).shards == shards
    assert extract_features(configure(pictures, store, new_store=True), quiet).computed == 6


def test_extract_into_a_store_whose_catalog_was_rebuilt_finds_its_features(
    pictures: Path, store: Path, quiet: Console
) -> None:
    catalog = Catalog(store / "catalog.sqlite", writable=True)
    catalog.remove_images([image.path for image in catalog.read_images()])
    catalog.close()
    result = extract_features(configure(pictures, store), quiet)
    assert (result.computed, result.reused) == (0, 36)


# What every run counts.


class Overflowing(Louder):
    """An engine one of whose features is beyond float16."""

    def run(self, batch: Any) -> list[Any]:
        found = [output.copy() for output in self._engine.run(batch)]
        found[0][0] = 1e6
        return found


def test_extract_counts_unsound_and_failed_pictures_in_every_run(
    other: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.backbone.build_engine", lambda *given: Overflowing(build_engine(*given)))
    (other / "train/cats/bad.jpg").write_bytes(b"")
    config = configure(other, tmp_path / "own", cut="mixed0")
    first = run_here(extract, config)
    monkeypatch.setattr("extract.backbone.build_engine", build_engine)
    second = run_here(extract, config)
    assert (first.status, second.status) == (0, 0)
    assert first.result["unsound"] == second.result["unsound"] == 1
    assert first.result["unsound_images"] == second.result["unsound_images"]
    assert [first.result["computed"], second.result["computed"]] == [6, 0]
    assert len(second.result["failed"]) == 1
    assert "up to date" not in second.err
    (other / "train/cats/bad.jpg").unlink()
    assert "up to date" in run_here(extract, config).err


# The store's own weights.


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("weights were looked for")

    monkeypatch.setattr("extract.weights.find.download_first", fail)
    monkeypatch.setattr("extract.weights.nsfwjs.fetch_package", fail)


def test_extract_auto_takes_a_stores_own_weights_by_name(
    pictures: Path, store: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_network(monkeypatch)
    config = replace(configure(pictures, store), weights="auto")
    assert extract_features(config, quiet).weights == "random"
    fill_folder(pictures, {"train/cats": 1}, start=700)
    assert extract_features(config, quiet).computed == 1


def test_extract_auto_takes_a_stores_own_weights_file_and_needs_it_only_to_compute(
    pictures: Path, tmp_path: Path, legacy_file: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_network(monkeypatch)
    weights = Path(shutil.copy(legacy_file, tmp_path / "mine.h5"))
    first = extract_features(replace(configure(pictures, tmp_path / "own", cut="mixed0"), weights=str(weights)), quiet)
    config = replace(configure(pictures, tmp_path / "own", cut="mixed0"), weights="auto")
    fill_folder(pictures, {"train/cats": 1}, start=700)
    assert extract_features(config, quiet).computed == 1

    weights.unlink()
    again = extract_features(config, quiet)
    assert (again.computed, again.fingerprint, again.weights) == (0, first.fingerprint, first.weights)
    fill_folder(pictures, {"train/cats": 1}, start=701)
    with pytest.raises(HeadstartError) as raised:
        extract_features(config, quiet)
    assert (raised.value.where, raised.value.got) == (weights, "no such file")
    assert extract_features(replace(config, weights=str(legacy_file)), quiet).computed == 1
