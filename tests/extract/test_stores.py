"""Stores that accept or refuse a folder, new stores, and the weights recorded in a store."""

from __future__ import annotations

import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import FeatureStoreError, HeadstartError, StoreLockedError
from base.lock import hold_write_lock
from base.terminal import Console
from extract.engines import build_engine
from extract.estimate import estimate_run
from extract.stores import OtherFolderError
from features.catalog.catalog import Catalog
from features.store import FeatureStore
from tests.commands import list_warnings, run_command
from tests.errors import raises
from tests.extract.extraction import ScaledEngine, configure, extract
from tests.files import read_files
from tests.pictures import fill_folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Folder of six pictures that are not stored."""
    folder = tmp_path / "elsewhere/pictures"
    fill_folder(folder, {"train/cats": 2, "train/dogs": 2}, start=300)
    fill_folder(folder, {"validation/cats": 1, "validation/dogs": 1}, start=400)
    return folder


@pytest.mark.parametrize("dry_run", [True, False])
def test_extract_another_folder_into_a_store_is_refused_with_both_folders(
    small_pictures: Path, small_store: Path, other: Path, quiet: Console, dry_run: bool
) -> None:
    before = read_files(small_store)
    with raises(OtherFolderError, where=small_store) as caught:
        if dry_run:
            estimate_run(configure(other, small_store), quiet)
        else:
            extract(other, small_store)
    assert str(small_pictures) in caught.value.expected
    assert str(other) in caught.value.got
    assert "--new-store" in caught.value.advice
    assert read_files(small_store) == before


def test_extract_folder_with_the_same_names_and_other_pictures_is_refused(
    small_pictures: Path, small_store: Path, tmp_path: Path
) -> None:
    new = shutil.copytree(small_pictures, tmp_path / "new")
    for path in new.rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"\0")
    with raises(OtherFolderError, where=small_store):
        extract(new, small_store)


def test_extract_moved_folder_is_recorded_without_a_warning(
    small_pictures: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = small_pictures.rename(tmp_path / "moved")
    result = extract(moved, small_store)
    assert (result.computed, result.reused, result.removed) == (0, 16, 0)
    assert FeatureStore(small_store).images_folder == str(moved)
    assert list_warnings(capsys.readouterr().err) == []


@pytest.mark.parametrize(("num_left", "is_refused"), [(8, False), (7, True)])
def test_extract_another_folder_needs_half_of_the_stored_pictures(
    small_pictures: Path, small_store: Path, tmp_path: Path, num_left: int, is_refused: bool
) -> None:
    moved = small_pictures.rename(tmp_path / "moved")
    for path in sorted(moved.glob("train/*/00[1-5].jpg"))[: 16 - num_left]:
        path.unlink()
    if is_refused:
        with raises(OtherFolderError, where=small_store) as caught:
            extract(moved, small_store)
        assert {"7", "16"} <= set(caught.value.got.split())
    else:
        assert extract(moved, small_store).reused == 8


@pytest.mark.parametrize("is_other", [True, False])
def test_extract_new_store_renames_the_existing_store(
    small_pictures: Path, small_store: Path, other: Path, is_other: bool
) -> None:
    shards = [shard.sha256 for shard in FeatureStore(small_store).shards]
    result = extract(other if is_other else small_pictures, small_store, new_store=True)
    assert (result.computed, result.reused) == (6 if is_other else 16, 0)
    assert FeatureStore(small_store).num_features == result.computed
    (aside,) = small_store.parent.glob("store-*")
    assert [shard.sha256 for shard in FeatureStore(aside).shards] == shards


def test_extract_new_store_without_an_existing_store_creates_one(other: Path, tmp_path: Path) -> None:
    result = extract(other, tmp_path / "new", cut="mixed0,mixed1", new_store=True)
    assert result.computed == 6
    assert sorted(path.name for path in tmp_path.glob("new*")) == ["new"]


def test_extract_new_store_keeps_a_locked_store_and_foreign_folders(
    small_store: Path, other: Path, tmp_path: Path
) -> None:
    with hold_write_lock(small_store), pytest.raises(StoreLockedError):
        extract(other, small_store, new_store=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    with pytest.raises(HeadstartError):
        extract(other, tmp_path / "mine", new_store=True)
    assert not list(tmp_path.glob("store-*")) + list(tmp_path.glob("mine-*"))
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("is_changed", [True, False])
def test_extract_without_a_picture_to_compare_is_refused_and_keeps_the_shards(
    small_pictures: Path, small_store: Path, other: Path, monkeypatch: pytest.MonkeyPatch, is_changed: bool
) -> None:
    shards = FeatureStore(small_store).shards
    shutil.rmtree(small_pictures)
    shutil.copytree(other, small_pictures)  # the same folder with other pictures
    if is_changed:
        monkeypatch.setattr("extract.cut_backbone.build_engine", lambda *given: ScaledEngine(build_engine(*given), 1.5))
    with raises(FeatureStoreError, where=small_store) as caught:
        extract(small_pictures, small_store)
    assert "--new-store" in caught.value.advice
    assert FeatureStore(small_store).shards == shards
    assert extract(small_pictures, small_store, new_store=True).computed == 6


def test_extract_into_a_store_without_pictures_finds_its_features(small_pictures: Path, small_store: Path) -> None:
    with closing(Catalog(small_store / "catalog.sqlite", writable=True)) as catalog:
        catalog.remove_images([image.path for image in catalog.read_images()])
    result = extract(small_pictures, small_store)
    assert (result.computed, result.reused) == (0, 16)


# Unsound and failed pictures are counted in every run.


class Overflowing(ScaledEngine):
    """Engine with a value beyond float16 in the first row of each batch."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = super().run(batch)
        found[0][0] = 1e6
        return found


def test_extract_counts_unsound_and_failed_pictures_in_every_run(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other / "train/cats/bad.jpg").write_bytes(b"")
    arguments: list[Any] = ["--images", other, "--store", tmp_path / "own", "--weights", "random"]
    arguments += ["--image-size", 75, "--cut", "mixed0", "--max-bad", 0.5, "--json"]
    with monkeypatch.context() as patch:
        patch.setattr("extract.cut_backbone.build_engine", lambda *given: Overflowing(build_engine(*given), 1))
        first = run_command("extract.__main__", *arguments)
    second = run_command("extract.__main__", *arguments)
    (other / "train/cats/bad.jpg").unlink()
    third = run_command("extract.__main__", *arguments)

    results = [run.json for run in (first, second, third)]
    assert [run.status for run in (first, second, third)] == [0, 0, 0]
    assert [result["computed"] for result in results] == [6, 0, 0]
    assert [len(result["failed"]) for result in results] == [1, 1, 0]
    assert [result["unsound"] for result in results] == [1, 1, 1]
    unsound = results[0]["unsound_images"]
    assert [result["unsound_images"] for result in results] == [unsound] * 3
    for run, bad in ((first, ["train/cats/bad.jpg", *unsound]), (second, ["train/cats/bad.jpg", *unsound])):
        assert len(run.warnings) == 2
        assert all(path in warning for path, warning in zip(bad, run.warnings, strict=True))


# The weights of the store.


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every attempt to download weights fail."""

    def fail(*_: object) -> None:
        raise AssertionError("searched for weights")

    monkeypatch.setattr("extract.weights.find.download_first", fail)
    monkeypatch.setattr("extract.weights.find.fetch_package", fail)


@pytest.mark.usefixtures("no_download")
def test_extract_auto_uses_the_random_weights_of_the_store(small_pictures: Path, small_store: Path) -> None:
    assert extract(small_pictures, small_store, weights="auto").weights == "random"
    fill_folder(small_pictures, {"train/cats": 1}, start=700)
    assert extract(small_pictures, small_store, weights="auto").computed == 1


@pytest.mark.usefixtures("no_download")
def test_extract_auto_uses_the_weights_file_of_the_store_and_needs_it_only_to_compute(
    other: Path, tmp_path: Path, legacy_file: Path
) -> None:
    store, weights = tmp_path / "own", Path(shutil.copy(legacy_file, tmp_path / "mine.h5"))
    run = partial(extract, other, store, cut="conv2d")
    first = run(weights=str(weights))
    fill_folder(other, {"train/cats": 1}, start=700)
    assert run(weights="auto").computed == 1

    weights.unlink()
    again = run(weights="auto")
    assert (again.computed, again.fingerprint, again.weights) == (0, first.fingerprint, first.weights)
    fill_folder(other, {"train/cats": 1}, start=701)
    with raises(HeadstartError, where=weights, got="no such file"):
        run(weights="auto")
    assert run(weights=str(legacy_file)).computed == 1
