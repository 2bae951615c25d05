"""Labels in shards of WebDataset's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from base.urls import UrlPath, locate_pictures
from extract.images.scan import Scan
from extract.labels.scan import scan_shards
from tests.archives import write_tar
from tests.errors import raises

pytestmark = pytest.mark.unit

CLASSES = ("cat", "dog")


def scan(place: object, columns: str = "") -> Scan | None:
    location = locate_pictures(str(place))
    assert isinstance(location, UrlPath)
    return scan_shards(location, columns)


def write_shards(folder: Path, extension: str, names: tuple[str, ...] = ("s-000", "s-001")) -> str:
    """Write shards of four pictures with labels, and return their pattern."""
    for name in names:
        files: dict[str, bytes] = {}
        for number in range(4):
            label = CLASSES[number % 2]
            text = json.dumps({"breed": label, "width": 5, "box": {"x": 1}}) if extension == "json" else label
            files |= {f"{number:06}.jpg": b"", f"{number:06}.{extension}": f"{text}\n".encode()}
        write_tar(folder / f"{name}.tar", files)
    return f"{folder}/{{{','.join(names)}}}.tar"


@pytest.mark.parametrize(("extension", "columns"), [("cls", ""), ("txt", ""), ("json", "label=breed")])
def test_scan_of_shards_reads_the_labels_of_the_samples(extension: str, columns: str, tmp_path: Path) -> None:
    found = scan(write_shards(tmp_path, extension), columns)
    assert found
    assert found.count_by_class() == {"": {"cat": 4, "dog": 4}}
    assert found.skipped == []
    assert [image.path for image in found.images] == [f"s/{s}/{n:06}.jpg" for s in ("000", "001") for n in range(4)]


def test_names_of_shards_are_splits(tmp_path: Path) -> None:
    found = scan(write_shards(tmp_path, "cls", ("d-train-000", "d-train-001", "d-val-000")))
    assert found
    assert found.count_by_class() == {"train": {"cat": 4, "dog": 4}, "validation": {"cat": 2, "dog": 2}}


def test_class_is_preferred_to_other_files_of_a_sample(tmp_path: Path) -> None:
    files = {f"{n}.{e}": text for n in "12" for e, text in (("jpg", b""), ("cls", n.encode()), ("txt", b"caption"))}
    found = scan(write_tar(tmp_path / "a.tar", files))
    assert found
    assert [image.label for image in found.images] == ["1", "2"]


def test_shards_without_labels_have_none(tmp_path: Path) -> None:
    assert scan(write_tar(tmp_path / "a.tar", {"cats/1.jpg": b"", "dogs/1.jpg": b""})) is None


def test_unreadable_labels_name_the_sample(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.jpg": b"", "1.json": b"{"})
    with raises(HeadstartError, where=UrlPath(str(path), "tar") / "1.jpg"):
        scan(path)


def test_shards_without_labels_and_with_equal_paths_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", {"cats/1.jpg": b""})
    with raises(HeadstartError, where=f"{tmp_path}/*.tar"):
        scan(tmp_path)


def test_pattern_of_no_shards_is_refused(tmp_path: Path) -> None:
    with raises(UsageError, where=f"{tmp_path}/*.tar"):
        scan(f"{tmp_path}/*.tar")
