"""Lists of pictures in archives: equal to those of a local folder with the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.urls import UrlPath
from extract.images.places import SECOND_PICTURE, list_location
from extract.images.walk import Listing, list_files
from tests.archives import read_tree, write_tar, write_zip

pytestmark = pytest.mark.unit

NAMES = (
    *("b/2.jpg", "b/10.JPG", "b/a/1.png", "b-c/1.jpg", "a.jpg", "b/notes.txt", "b/no extension", "c/d/e/1.webp"),
    *(".hidden.jpg", ".cache/1.jpg", ".cache/x/2.jpg", "b/.DS_Store", "__MACOSX/b/._2.jpg", "b/._2.jpg", "d/1.cr2"),
)


def describe(listing: Listing) -> object:
    folders = [(folder, [picture[:2] for picture in pictures]) for folder, pictures in listing.folders.items()]
    return folders, listing.skipped, listing.ignored


def test_list_of_an_archive_is_that_of_the_folder(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(number))
    files = read_tree(tmp_path / "folder")
    expected = describe(list_files(tmp_path / "folder"))
    for archive in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar", files)):
        assert describe(list_location(UrlPath.parse(f"{archive}"))) == expected
    inner = list_location(UrlPath.parse(f"zip://b::{tmp_path}/a.zip"))
    assert describe(inner) == describe(list_files(tmp_path / "folder/b"))


def test_list_of_a_shard_has_one_picture_of_each_sample(tmp_path: Path) -> None:
    names = ("1.jpg", "1.cls", "1.seg.png", "2.jpg", "2.cls")
    path = write_tar(tmp_path / "a.tar", dict.fromkeys(names, b"1"))
    listing = list_location(UrlPath(str(path), "tar"))
    assert [picture.path for picture in listing.pictures] == ["1.jpg", "2.jpg"]
    assert SECOND_PICTURE in {found.reason for found in listing.skipped}
