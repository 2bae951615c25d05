"""Values of a table matched to pictures: names, stems, folders, other machines, URLs, Unicode."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from extract.labels.match import PictureIndex, remove_extension

pytestmark = pytest.mark.unit

PATHS = ["train/a.jpg", "train/b.png", "train/deep/c.JPG", "test/d.jpg"]


def find(folder: Path, value: str, paths: list[str] | None = None) -> list[str]:
    index = PictureIndex(folder, paths or PATHS)
    return [index.paths[number] for number in index.find(value)]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("train/a.jpg", "train/a.jpg"),
        ("a.jpg", "train/a.jpg"),
        ("a", "train/a.jpg"),
        ("train/a", "train/a.jpg"),
        ("./train//a.jpg", "train/a.jpg"),
        ("train\\a.jpg", "train/a.jpg"),
        ("C:\\data\\train\\a.jpg", "train/a.jpg"),
        ("/kaggle/input/dogs/train/a.jpg", "train/a.jpg"),
        ("dogs/train/a.jpg", "train/a.jpg"),
        ("https://example.org/dogs/train/a.jpg?size=1", "train/a.jpg"),
        ("https://example.org/a.jpg", "train/a.jpg"),
        ("http://[example/my%20dogs/train/a.jpg#1", "train/a.jpg"),
        ("../train/a.jpg", "train/a.jpg"),
        ("b.dcm", "train/b.png"),
        ("deep/c.jpg", "train/deep/c.JPG"),
    ],
)
def test_find_accepts_names_and_paths_with_and_without_extension(tmp_path: Path, value: str, path: str) -> None:
    assert find(tmp_path, value) == [path]


@pytest.mark.parametrize(
    "value", ["", "z", "test/a.jpg", "other/deep/c.jpg", "train/other/a.jpg", "a.txt", "rain/a.jpg"]
)
def test_find_of_another_name_or_folder_is_empty(tmp_path: Path, value: str) -> None:
    assert find(tmp_path, value) == []


def test_find_accepts_absolute_paths_and_paths_from_folders_above(tmp_path: Path) -> None:
    folder = tmp_path / "dogs/pictures"
    assert find(folder, f"{folder}/train/a.jpg") == ["train/a.jpg"]
    assert find(folder, "dogs/pictures/train/a.jpg") == ["train/a.jpg"]


def test_find_in_a_flat_folder_respects_its_split(tmp_path: Path) -> None:
    assert find(tmp_path / "dogs/train", "train/1.jpg", ["1.jpg"]) == ["1.jpg"]
    assert find(tmp_path / "dogs/test", "train/1.jpg", ["1.jpg"]) == []
    assert find(tmp_path / "dogs/other", "train/1.jpg", ["1.jpg"]) == ["1.jpg"]


def test_find_prefers_the_exact_path_and_the_named_folder(tmp_path: Path) -> None:
    paths = ["1.jpg", "test/1.jpg", "train/1.jpg"]
    assert find(tmp_path, "1.jpg", paths) == ["1.jpg"]
    assert find(tmp_path, "1", paths) == paths
    assert find(tmp_path, "test/1", paths) == ["test/1.jpg"]


def test_find_of_equal_stems_needs_the_extension(tmp_path: Path) -> None:
    paths = ["a.jpg", "a.png"]
    assert find(tmp_path, "a", paths) == paths
    assert find(tmp_path, "a.png", paths) == ["a.png"]


@pytest.mark.parametrize(("stored", "given"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_find_compares_names_in_one_form_of_unicode(tmp_path: Path, stored: str, given: str) -> None:
    path, value = (unicodedata.normalize(form, "Müller.jpg") for form in (stored, given))  # type: ignore[arg-type]
    assert find(tmp_path, value, [path]) == [path]


@pytest.mark.parametrize(
    ("name", "stem"), [("a.jpg", "a"), ("a.b.PNG", "a.b"), ("v1.2", "v1.2"), ("a", "a"), (".jpg", ".jpg"), ("", "")]
)
def test_remove_extension_removes_only_those_of_pictures(name: str, stem: str) -> None:
    assert remove_extension(name) == stem
