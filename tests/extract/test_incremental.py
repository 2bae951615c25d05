"""Extraction from a folder that changed: new, moved, edited, deleted, copied, damaged and repaired pictures."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from extract.result import ExtractResult
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.commands import list_warnings
from tests.extract.extraction import extract, find_examples, read_by_path
from tests.pictures import draw_picture, encode, fill_folder

ODD_NAME = os.fsdecode(b'train/dogs/\xe4 "new\nline".jpg')
"""Path with quotes, a line break, and a byte that is not UTF-8."""


@dataclass(frozen=True)
class Changed:
    """Results and stores of a run after many changes, and of a second run after some were undone."""

    result: ExtractResult
    before: FeatureStore
    after: FeatureStore
    fresh: FeatureStore
    """New store of the changed folder."""
    repaired_result: ExtractResult
    repaired: FeatureStore


@pytest.fixture(scope="module")
def changed(shared_pictures: Path, shared_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Changed:
    folder = tmp_path_factory.mktemp("changed")
    pictures = shutil.copytree(shared_pictures, folder / "pictures")
    store = shutil.copytree(shared_store, folder / "store")
    cats, dogs = pictures / "train/cats", pictures / "train/dogs"
    fill_folder(pictures, {"train/cats": 1, "train/dogs": 1}, start=900)
    (dogs / "900.jpg").rename(pictures / ODD_NAME)
    (cats / "000.jpg").rename(cats / "renamed.jpg")
    (cats / "001.jpg").rename(dogs / "was a cat.jpg")
    (dogs / "000.jpg").rename(pictures / "validation/dogs/held out.jpg")
    (dogs / "001.jpg").write_bytes(encode(draw_picture("dogs", 777), "JPEG"))
    deleted = (dogs / "002.jpg").read_bytes()
    (dogs / "002.jpg").unlink()
    shutil.copyfile(cats / "002.jpg", cats / "copy of an old one.jpg")
    shutil.copyfile(cats / "900.jpg", cats / "copy of a new one.jpg")
    (cats / "a png.jpg").write_bytes(encode(draw_picture("cats", 901)))
    (cats / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    (cats / "cut.jpg").write_bytes((cats / "003.jpg").read_bytes()[:2000])
    (cats / "empty.jpg").write_bytes(b"")
    (dogs / "page.jpg").write_bytes(b"<html>404</html>")
    (dogs / "notes.txt").write_text("not a picture")

    result = extract(pictures, store, max_bad=1.0)
    after = FeatureStore(shutil.copytree(store, folder / "after"))
    extract(pictures, folder / "fresh", max_bad=1.0)

    (cats / "corrupt.jpg").write_bytes(encode(draw_picture("cats", 902), "JPEG"))
    (dogs / "002.jpg").write_bytes(deleted)
    repaired_result = extract(pictures, store, max_bad=1.0)
    before, fresh = FeatureStore(shared_store), FeatureStore(folder / "fresh")
    return Changed(result, before, after, fresh, repaired_result, FeatureStore(store))


def test_extract_changed_folder_computes_only_new_contents(changed: Changed) -> None:
    result = changed.result
    assert result.images == 24
    assert result.computed == 4, "two new ones, an edited one, a PNG named .jpg"
    assert len(result.failed) == 4
    assert (result.reused, result.duplicates) == (15, 1)
    assert changed.after.num_features == changed.before.num_features + 4


def test_extract_changed_folder_equals_a_new_store(changed: Changed) -> None:
    labels, expected = (
        {example.path: (example.label, example.split, example.content_hash) for example in store.examples}
        for store in (changed.after, changed.fresh)
    )
    assert labels == expected
    assert len(expected) == 20
    after, fresh = (read_by_path(store, sorted(expected)) for store in (changed.after, changed.fresh))
    np.testing.assert_array_equal(after, fresh)


def test_extract_bad_pictures_are_each_listed_once_with_the_reason(changed: Changed) -> None:
    reasons = {failure["image"]: failure["reason"] for failure in changed.result.failed}
    assert len(reasons) == len(changed.result.failed)
    expected = {"train/cats/cut.jpg": "truncated", "train/cats/empty.jpg": "empty", "train/dogs/page.jpg": "web page"}
    assert sorted(reasons) == sorted([*expected, "train/cats/corrupt.jpg"])
    assert {path: term for path, term in expected.items() if term in reasons[path]} == expected
    (skipped,) = changed.result.skipped
    assert skipped["path"] == "train/dogs/notes.txt"
    assert ".txt" in skipped["reason"]


def test_extract_bad_pictures_are_failed_in_the_catalog_and_have_no_examples(changed: Changed) -> None:
    failed = {image.path: image.reason for image in changed.after.images if image.status is ImageStatus.FAILED}
    assert failed == {failure["image"]: failure["reason"] for failure in changed.result.failed}
    assert not failed.keys() & find_examples(changed.after).keys()
    assert changed.after.num_pending == 0


def test_extract_unchanged_pictures_keep_their_rows_and_bits(changed: Changed) -> None:
    before, after = find_examples(changed.before), find_examples(changed.after)
    same = sorted(before.keys() & after.keys() - {"train/dogs/001.jpg"})
    assert len(same) == 11
    assert [after[path] for path in same] == [before[path] for path in same]
    np.testing.assert_array_equal(read_by_path(changed.after, same), read_by_path(changed.before, same))


@pytest.mark.parametrize(
    ("old_path", "path", "label", "split"),
    [
        ("train/cats/000.jpg", "train/cats/renamed.jpg", "cats", "train"),
        ("train/cats/001.jpg", "train/dogs/was a cat.jpg", "dogs", "train"),
        ("train/dogs/000.jpg", "validation/dogs/held out.jpg", "dogs", "validation"),
    ],
)
def test_extract_moved_picture_keeps_its_row_with_the_new_label_and_split(
    changed: Changed, old_path: str, path: str, label: str, split: str
) -> None:
    old, new = find_examples(changed.before)[old_path], find_examples(changed.after)[path]
    assert (new.shard, new.row, new.content_hash) == (old.shard, old.row, old.content_hash)
    assert (new.label, new.split) == (label, split)
    assert old_path not in {image.path for image in changed.after.images}


def test_extract_edited_picture_gets_new_features(changed: Changed) -> None:
    path = "train/dogs/001.jpg"
    old, new = find_examples(changed.before)[path], find_examples(changed.after)[path]
    assert old.content_hash != new.content_hash
    assert not np.array_equal(read_by_path(changed.after, [path]), read_by_path(changed.before, [path]))


def test_extract_deleted_picture_is_removed_from_the_catalog(changed: Changed) -> None:
    assert "train/dogs/002.jpg" in find_examples(changed.before)
    assert "train/dogs/002.jpg" not in {image.path for image in changed.after.images}
    assert changed.result.removed == 4, "the deleted one and the old paths of the three that were moved"


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("train/cats/copy of an old one.jpg", "train/cats/002.jpg"),
        ("train/cats/copy of a new one.jpg", "train/cats/900.jpg"),
    ],
)
def test_extract_duplicate_is_a_second_example_of_one_row(changed: Changed, copy: str, original: str) -> None:
    examples = find_examples(changed.after)
    assert (examples[copy].shard, examples[copy].row) == (examples[original].shard, examples[original].row)


def test_extract_odd_name_is_stored_and_found_again(changed: Changed) -> None:
    content_hash = find_examples(changed.after)[ODD_NAME].content_hash
    assert content_hash == hashlib.sha256(encode(draw_picture("dogs", 900), "JPEG", quality=95)).digest()
    assert find_examples(changed.repaired)[ODD_NAME] == find_examples(changed.after)[ODD_NAME]
    assert ODD_NAME not in {failure["image"] for failure in changed.repaired_result.failed}


def test_extract_png_named_jpg_is_decoded_by_its_content(changed: Changed) -> None:
    assert "train/cats/a png.jpg" in find_examples(changed.after)


def test_extract_repaired_picture_is_computed_and_the_others_fail_again(changed: Changed) -> None:
    assert (changed.repaired_result.computed, changed.repaired_result.duplicates) == (1, 0)
    assert sorted(failure["image"] for failure in changed.repaired_result.failed) == [
        "train/cats/cut.jpg",
        "train/cats/empty.jpg",
        "train/dogs/page.jpg",
    ]
    assert "train/cats/corrupt.jpg" in find_examples(changed.repaired)


def test_extract_restored_picture_finds_its_old_features(changed: Changed) -> None:
    path = "train/dogs/002.jpg"
    assert find_examples(changed.repaired)[path] == find_examples(changed.before)[path]


def test_extract_renamed_pictures_computes_nothing(small_pictures: Path, small_store: Path) -> None:
    before = FeatureStore(small_store)
    for path in sorted(small_pictures.rglob("*.jpg")):
        path.rename(path.with_name(f"new {path.name}"))

    result = extract(small_pictures, small_store)

    assert (result.computed, result.reused, result.removed) == (0, 16, 16)
    after = FeatureStore(small_store)
    assert after.shards == before.shards
    rows = {example.path.replace("new ", ""): (example.shard, example.row) for example in after.examples}
    assert rows == {example.path: (example.shard, example.row) for example in before.examples}


def test_extract_finds_an_edit_that_keeps_size_and_time_only_with_rehash(
    small_pictures: Path, small_store: Path
) -> None:
    path = small_pictures / "train/cats/000.jpg"
    status, data = path.stat(), path.read_bytes()
    assert data[6:11] == b"JFIF\0"
    path.write_bytes(data[:15] + b"\x07" + data[16:])  # another density: other content, the same pixels
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert extract(small_pictures, small_store).computed == 0
    result = extract(small_pictures, small_store, rehash=True)

    assert (result.images, result.computed, result.reused) == (16, 1, 15)


def test_extract_moved_folder_with_fewer_pictures_warns_with_both_folders_and_the_number(
    small_pictures: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(small_pictures, tmp_path / "moved")
    for number in range(3):
        (moved / f"train/cats/{number:03}.jpg").unlink()

    result = extract(moved, small_store)

    assert (result.computed, result.removed) == (0, 3)
    (warning,) = list_warnings(capsys.readouterr().err)
    assert str(small_pictures) in warning
    assert str(moved) in warning
    assert "3" in warning.replace(str(tmp_path), "").split()
    assert extract(small_pictures, small_store).computed == 0
    assert len(FeatureStore(small_store).examples) == 16
