"""List a tree of folders: the pictures in each folder, skipped files, and files of operating systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from extract.images.walk import Listing, list_files
from tests.features.stores import fill_store

pytestmark = pytest.mark.unit

SYSTEM_FOLDERS = [
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "@Recently-Snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
] + ["lost+found", ".ipynb_checkpoints", "__MACOSX", ".git", ".Trash-1000", ".Spotlight-V100", ".@__thumb"]
SYSTEM_FILES = ["._1.jpg", "Thumbs.db", "desktop.ini", ".DS_Store", "THUMBS.DB"]


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"bytes of " + os.fsencode(path))


def list_skipped(listing: Listing) -> dict[str, str]:
    return {found.path: found.reason for found in listing.skipped}


def test_list_files_returns_pictures_of_each_folder_with_size_and_time(tmp_path: Path) -> None:
    make(tmp_path, "cats/b.jpg", "cats/A.PNG", "cats/deep/1.jpg", "2.jpg", "notes/readme.txt")
    (tmp_path / "empty").mkdir()
    os.utime(tmp_path / "2.jpg", ns=(5, 1_700_000_000_123_456_789))

    listing = list_files(tmp_path)

    assert {folder: [picture.path for picture in pictures] for folder, pictures in listing.folders.items()} == {
        "": ["2.jpg"],
        "cats": ["cats/A.PNG", "cats/b.jpg"],
        "cats/deep": ["cats/deep/1.jpg"],
        "empty": [],
        "notes": [],
    }
    assert listing.pictures[0] == ("2.jpg", len(b"bytes of 2.jpg"), 1_700_000_000_123_456_789)
    assert [picture.path for picture in listing.pictures] == ["2.jpg", "cats/A.PNG", "cats/b.jpg", "cats/deep/1.jpg"]
    assert list(list_skipped(listing)) == ["notes/readme.txt"]


@pytest.mark.parametrize("place", ["", "cats/", "cats/deep/"])
def test_list_files_of_operating_systems_are_counted_at_any_depth_and_not_listed(tmp_path: Path, place: str) -> None:
    make(tmp_path, "cats/1.jpg", *(f"{place}{name}/thumb.jpg" for name in SYSTEM_FOLDERS))
    make(tmp_path, *(f"{place}{name}" for name in SYSTEM_FILES))

    listing = list_files(tmp_path)

    assert [picture.path for picture in listing.pictures] == ["cats/1.jpg"]
    assert listing.skipped == []
    patterns = {"._1.jpg": "._*", ".Trash-1000": ".Trash-*"}
    assert listing.ignored == {patterns.get(name, name): 1 for name in [*SYSTEM_FOLDERS, *SYSTEM_FILES]}


def test_list_files_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "cats/.2.jpg", ".owls/3.jpg", ".owls/deep/4.png", ".owls/notes.txt", ".empty/notes")
    listing = list_files(tmp_path)
    skipped = list_skipped(listing)
    assert [picture.path for picture in listing.pictures] == ["cats/1.jpg"]
    assert list(skipped) == [".empty", ".owls", "cats/.2.jpg"]
    assert [found.num_pictures for found in listing.skipped] == [0, 2, 0]


def test_list_files_store_in_a_hidden_folder_is_skipped_once(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg")
    fill_store(tmp_path / ".store", range(2))
    for stores in ([tmp_path / ".store"], [tmp_path / ".store", tmp_path / "new"]):
        assert [found.path for found in list_files(tmp_path, stores).skipped] == [
            store.relative_to(tmp_path).as_posix() for store in stores
        ]


def test_list_files_of_a_missing_folder_raises_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_files(tmp_path / "missing")
