"""A folder's life: pictures come, go, move, change and double, and the store follows, values and all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console
from extract.config import ExtractConfig
from extract.run import ExtractResult, extract_features
from features.schema import Features
from features.store import FeatureStore
from tests.pictures import draw_picture, encode, fill_folder

Run = Callable[..., ExtractResult]
Rows = dict[str, tuple[str, str, Features]]


@pytest.fixture
def extract(pictures: Path, store: Path, quiet: Console) -> Run:
    def run(**changes: object) -> ExtractResult:
        config = ExtractConfig(pictures, store, weights="random", image_size=75, **changes)  # type: ignore[arg-type]
        return extract_features(config, quiet)

    # The store was made from another copy of the folder: times differ, content does not.
    assert run().computed == 0
    return run


def read_rows(store: Path) -> Rows:
    """Reads {path: (label, split, feature)}."""
    opened = FeatureStore(store)
    features = opened.read(opened.examples)
    return {e.path: (e.label, e.split, feature) for e, feature in zip(opened.examples, features, strict=True)}


def assert_same(found: Rows, expected: Rows) -> None:
    assert found.keys() == expected.keys()
    for path, (label, split, feature) in expected.items():
        assert found[path][:2] == (label, split), path
        np.testing.assert_array_equal(found[path][2], feature, err_msg=path)


def extract_alone(folder: Path, scratch: Path, quiet: Console) -> Rows:
    """What a new store of the folder holds."""
    extract_features(ExtractConfig(folder, scratch, weights="random", image_size=75), quiet)
    return read_rows(scratch)


def test_incremental_added_pictures_are_computed_alone_and_equal_a_fresh_store(
    extract: Run, pictures: Path, store: Path, tmp_path: Path, quiet: Console
) -> None:
    before = read_rows(store)
    fill_folder(pictures, {"train/cats": 3}, start=50)
    result = extract()
    assert (result.computed, result.reused) == (3, 36)
    after = read_rows(store)
    assert_same({path: after[path] for path in before}, before)
    assert_same(after, extract_alone(pictures, tmp_path / "fresh", quiet))


def test_incremental_deleted_picture_leaves_the_examples_and_comes_back_for_nothing(
    extract: Run, pictures: Path, store: Path
) -> None:
    before = read_rows(store)
    path = pictures / "train/dogs/003.jpg"
    data = path.read_bytes()
    path.unlink()
    assert extract().removed == 1
    assert_same(read_rows(store), {name: row for name, row in before.items() if name != "train/dogs/003.jpg"})
    path.write_bytes(data)
    assert extract().computed == 0
    assert_same(read_rows(store), before)


def test_incremental_renamed_picture_keeps_its_feature_under_the_new_name(
    extract: Run, pictures: Path, store: Path
) -> None:
    before = read_rows(store)
    (pictures / "train/cats/001.jpg").rename(pictures / "train/cats/a new name.jpg")
    assert extract().computed == 0
    expected = {name: row for name, row in before.items() if name != "train/cats/001.jpg"}
    assert_same(read_rows(store), expected | {"train/cats/a new name.jpg": before["train/cats/001.jpg"]})


@pytest.mark.parametrize("target", ["train/dogs", "validation/cats"])
def test_incremental_picture_moved_to_another_class_or_split_takes_its_label_from_there(
    extract: Run, pictures: Path, store: Path, target: str
) -> None:
    feature = read_rows(store)["train/cats/002.jpg"][2]
    (pictures / "train/cats/002.jpg").rename(pictures / target / "moved.jpg")
    assert extract().computed == 0
    after = read_rows(store)
    split, label = target.split("/")
    assert "train/cats/002.jpg" not in after
    assert after[f"{target}/moved.jpg"][:2] == (label, split)
    np.testing.assert_array_equal(after[f"{target}/moved.jpg"][2], feature)


def test_incremental_edited_picture_is_extracted_again_and_its_old_feature_is_no_example(
    extract: Run, pictures: Path, store: Path, tmp_path: Path, quiet: Console
) -> None:
    before = read_rows(store)
    path = "train/cats/004.jpg"
    (pictures / path).write_bytes(encode(draw_picture("owls", 7), "JPEG"))
    assert extract().computed == 1
    after = read_rows(store)
    assert not np.array_equal(after[path][2], before[path][2])
    assert_same(after, extract_alone(pictures, tmp_path / "fresh", quiet))


def test_incremental_duplicate_is_an_example_of_its_own_with_the_same_stored_feature(
    extract: Run, pictures: Path, store: Path
) -> None:
    shutil.copy(pictures / "train/dogs/005.jpg", pictures / "train/dogs/copy.jpg")
    assert extract().computed == 0
    opened = FeatureStore(store)
    places = {e.path: (e.shard, e.row) for e in opened.examples}
    assert places["train/dogs/copy.jpg"] == places["train/dogs/005.jpg"]
    assert opened.num_features == 36


def test_incremental_edit_that_keeps_size_and_time_is_seen_with_rehash_alone(
    extract: Run, pictures: Path, store: Path
) -> None:
    path = pictures / "train/cats/006.jpg"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert extract().computed == 0
    result = extract(rehash=True)
    assert result.computed + len(result.failed) == 1
    assert result.reused == 35


def test_incremental_folder_that_was_moved_and_thinned_says_what_leaves_the_training_set(
    extract: Run, pictures: Path, store: Path, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(pictures, tmp_path / "other")
    for number in range(3):
        (moved / f"train/cats/{number:03}.jpg").unlink()
    result = extract_features(ExtractConfig(moved, store, weights="random", image_size=75), quiet)
    assert (result.computed, result.removed) == (0, 3)
    assert f"was filled from {pictures}; 3 of its pictures are not in {moved}" in capsys.readouterr().err
    assert extract().computed == 0
    assert len(read_rows(store)) == 36


def test_incremental_copies_of_new_pictures_are_duplicates_and_nothing_is_already_there(
    extract: Run, pictures: Path
) -> None:
    fill_folder(pictures, {"train/cats": 2}, start=80)
    shutil.copy(pictures / "train/cats/080.jpg", pictures / "train/cats/a copy.jpg")
    shutil.copy(pictures / "train/cats/080.jpg", pictures / "train/dogs/another.jpg")
    result = extract()
    assert (result.computed, result.duplicates, result.reused) == (2, 2, 36)
    assert (extract().duplicates, extract().reused) == (0, 40)
