"""Scanning a folder: what is a picture of which class and split, and what is passed over and why."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from extract.images.scan import Scan, Skipped, scan_images
from features.catalog.tables import ImageRow
from tests.features.stores import fill_store


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"bytes of " + os.fsencode(path))


def list_found(scan: Scan) -> list[tuple[str, str, str]]:
    return [(image.path, image.label, image.split) for image in scan.images]


def test_scan_class_folders_gives_path_label_size_and_time(tmp_path: Path) -> None:
    make(tmp_path, "dogs/b.jpg", "cats/c.PNG", "cats/a.jpeg")
    os.utime(tmp_path / "cats/a.jpeg", ns=(5, 1_700_000_000_123_456_789))

    scan = scan_images(tmp_path)

    assert list_found(scan) == [
        ("cats/a.jpeg", "cats", ""),
        ("cats/c.PNG", "cats", ""),
        ("dogs/b.jpg", "dogs", ""),
    ]
    assert scan.images[0] == ImageRow("cats/a.jpeg", "cats", "", 20, 1_700_000_000_123_456_789)
    assert scan.skipped == []


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("train", "validation", "validation"),
        ("train", "val", "validation"),
        ("training", "valid", "validation"),
        ("Train", "Test", "test"),
        ("TRAINING", "testing", "test"),
    ],
)
def test_scan_split_folders_gives_each_picture_its_split(tmp_path: Path, train: str, other: str, split: str) -> None:
    make(tmp_path, f"{train}/cats/1.jpg", f"{train}/dogs/2.jpg", f"{other}/cats/3.jpg", f"{other}/dogs/4.jpg")

    found = {path: (label, where) for path, label, where in list_found(scan_images(tmp_path))}

    assert found == {
        f"{train}/cats/1.jpg": ("cats", "train"),
        f"{train}/dogs/2.jpg": ("dogs", "train"),
        f"{other}/cats/3.jpg": ("cats", split),
        f"{other}/dogs/4.jpg": ("dogs", split),
    }


def test_scan_three_splits_counts_and_describes_each(tmp_path: Path) -> None:
    make(
        tmp_path,
        *(f"train/{label}/{number}.jpg" for label in ("cats", "dogs") for number in range(3)),
        *(f"val/{label}/{number}.jpg" for label in ("cats", "dogs") for number in range(2)),
        "test/cats/1.jpg",
        "test/cats/notes.txt",
    )

    scan = scan_images(tmp_path)

    assert scan.count_by_class() == {
        "train": {"cats": 3, "dogs": 3},
        "validation": {"cats": 2, "dogs": 2},
        "test": {"cats": 1},
    }
    assert scan.describe() == (
        "11 pictures (test: 1 cats; train: 3 cats, 3 dogs; validation: 2 cats, 2 dogs); 1 other files skipped"
    )


def test_scan_train_folder_only_is_a_split(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg")
    assert list_found(scan_images(tmp_path)) == [
        ("train/cats/1.jpg", "cats", "train"),
        ("train/dogs/2.jpg", "dogs", "train"),
    ]


def test_scan_validation_beside_classes_without_train_is_a_class(tmp_path: Path) -> None:
    make(tmp_path, "test/1.jpg", "cats/2.jpg")
    assert list_found(scan_images(tmp_path)) == [("cats/2.jpg", "cats", ""), ("test/1.jpg", "test", "")]


def test_scan_deeper_folders_belong_to_the_class_above(tmp_path: Path) -> None:
    make(tmp_path, "cats/tabby/old/1.jpg", "cats/2.jpg", "dogs/train/3.jpg")
    assert list_found(scan_images(tmp_path)) == [
        ("cats/2.jpg", "cats", ""),
        ("cats/tabby/old/1.jpg", "cats", ""),
        ("dogs/train/3.jpg", "dogs", ""),
    ]


def test_scan_hidden_and_mac_files_are_neither_taken_nor_listed(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    make(tmp_path, "cats/.3.jpg", "cats/._1.jpg", "cats/.thumbs/4.jpg", "cats/__MACOSX/5.jpg")
    make(tmp_path, "__MACOSX/cats/6.jpg", ".git/config", ".DS_Store", "cats/.DS_Store")

    scan = scan_images(tmp_path)

    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert scan.skipped == []


def test_scan_hidden_folders_in_the_place_of_classes_are_skipped_with_their_number_of_pictures(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "train/.owls/3.jpg", "train/.owls/deep/4.png")
    make(tmp_path, "train/.owls/notes.txt", ".old/cats/5.jpg", ".git/config")

    scan = scan_images(tmp_path)

    assert [image.path for image in scan.images] == ["train/cats/1.jpg", "train/dogs/2.jpg"]
    assert scan.skipped == [
        Skipped(".old", "a hidden folder, with 1 pictures"),
        Skipped("train/.owls", "a hidden folder, with 2 pictures"),
    ]


def make_own_folders(folder: Path) -> None:
    """Makes one of each of Headstart's own folders, pictures and all."""
    fill_store(folder / "store", range(2))
    fill_store(folder / "cuts/mixed7", range(2))
    make(folder, "run/run.json", "run/head.npz", "run/curves.png", "model/model.keras", "model/labels.txt")
    make(folder, "sweep/sweep.csv", "sweep/sweep.png", "sweep/trials/a/curves.png", "sweep/best/curves.png")
    make(folder, "compare/compare.png", "compare/one/run.json", "compare/one/head.npz", "compare/one/curves.png")


OWN = {
    "store": "Headstart's own feature store",
    "cuts/mixed7": "Headstart's own feature store",
    "run": "Headstart's own run",
    "model": "Headstart's own exported model",
    "sweep": "Headstart's own sweep",
    "compare": "Headstart's own comparison",
}


@pytest.mark.parametrize("place", [".", "train/cats", "work"])
@pytest.mark.parametrize("top", ["", "train/"])
def test_scan_headstarts_own_folders_are_skipped_wherever_they_are(tmp_path: Path, place: str, top: str) -> None:
    make(tmp_path, f"{top}cats/1.jpg", f"{top}dogs/2.jpg")
    place = place if top else place.removeprefix("train/")
    make_own_folders(tmp_path / place)

    scan = scan_images(tmp_path)

    assert [image.path for image in scan.images] == [f"{top}cats/1.jpg", f"{top}dogs/2.jpg"]
    assert {(Path(found.path), found.reason) for found in scan.skipped} == {
        (Path(place, path), reason) for path, reason in OWN.items()
    }


@pytest.mark.parametrize(
    "paths",
    [
        ["owls/catalog.sqlite", "owls/1.jpg"],
        ["owls/run.json", "owls/1.jpg"],
        ["owls/labels.txt", "owls/1.jpg"],
        ["owls/sweep.csv", "owls/1.jpg"],
        ["owls/compare.png", "owls/deep/1.jpg"],
    ],
)
def test_scan_folder_with_one_file_of_such_a_name_is_a_class(tmp_path: Path, paths: list[str]) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", *paths)
    assert {image.label for image in scan_images(tmp_path).images} == {"cats", "dogs", "owls"}


@pytest.mark.parametrize("made", ["nothing", "an empty folder", "a killed first run", "a store"])
@pytest.mark.parametrize("place", ["store", "work/store", "cats/store"])
def test_scan_store_inside_the_folder_is_listed_alike_before_and_after_it_is_made(
    tmp_path: Path, place: str, made: str
) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    if made == "a store":
        fill_store(tmp_path / place, range(2))
    elif made == "a killed first run":
        (tmp_path / place / "shards").mkdir(parents=True)
        (tmp_path / place / "catalog.sqlite").touch()
    elif made == "an empty folder":
        (tmp_path / place).mkdir(parents=True)

    scan = scan_images(tmp_path, [tmp_path / place])

    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert scan.skipped == [Skipped(place, "Headstart's own feature store")]


@pytest.mark.parametrize("year", [2400, 1600])
def test_scan_file_of_a_year_that_sqlite_cannot_hold_is_taken(tmp_path: Path, year: int) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    seconds = int((datetime(year, 1, 1) - datetime(1970, 1, 1)).total_seconds())
    os.utime(tmp_path / "cats/1.jpg", (seconds, seconds))
    if (tmp_path / "cats/1.jpg").stat().st_mtime != seconds:
        pytest.skip("the file system does not hold such a time")
    assert -(2**63) <= scan_images(tmp_path).images[0].modified_ns < 2**63


def test_scan_file_that_is_no_picture_by_name_is_skipped_with_its_extension(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", "dogs/notes.txt", "cats/README", "cats/1.jpg.part")
    assert scan_images(tmp_path).skipped == [
        Skipped("cats/1.jpg.part", "not a picture by its name (.part)"),
        Skipped("cats/README", "not a picture by its name (no extension)"),
        Skipped("dogs/notes.txt", "not a picture by its name (.txt)"),
    ]


def test_scan_file_outside_class_folders_is_skipped(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", "stray.jpg")

    scan = scan_images(tmp_path)

    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert scan.skipped == [Skipped("stray.jpg", "not in a class folder")]


def test_scan_file_beside_or_straight_in_a_split_is_skipped(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "train/stray.jpg", "labels.csv", "stray.png")
    assert scan_images(tmp_path).skipped == [
        Skipped("labels.csv", "not in a class folder"),
        Skipped("stray.png", "not in a class folder"),
        Skipped("train/stray.jpg", "not in a class folder"),
    ]


def test_scan_broken_link_is_skipped_with_the_reason(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats/gone.jpg").symlink_to("nowhere.jpg")

    scan = scan_images(tmp_path)

    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert scan.skipped == [Skipped("cats/gone.jpg", "No such file or directory")]


@pytest.mark.parametrize("target", [".", "..", "../../photos", "../../photos/cats"])
def test_scan_link_to_a_folder_above_is_skipped_and_not_followed(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "photos"
    make(folder, "cats/1.jpg", "dogs/2.jpg")
    (folder / "cats/again").symlink_to(target)

    scan = scan_images(folder)

    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert scan.skipped == [Skipped("cats/again", "a link back to a folder that it is in")]


def test_scan_folders_that_link_to_each_other_ends_and_lists_the_loop(tmp_path: Path) -> None:
    make(tmp_path, "cats/deep/1.jpg", "dogs/2.jpg", "elsewhere/3.jpg")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cats").symlink_to(tmp_path / "cats")
    (folder / "dogs").symlink_to(tmp_path / "dogs")
    (tmp_path / "cats/deep/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "cats/deep")

    scan = scan_images(folder)

    assert [image.path for image in scan.images] == ["cats/deep/1.jpg", "cats/deep/other/3.jpg", "dogs/2.jpg"]
    assert scan.skipped == [Skipped("cats/deep/other/back", "a link back to a folder that it is in")]


def test_scan_link_to_itself_is_skipped_wherever_it_lies(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats/loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "loop").symlink_to("loop")

    scan = scan_images(tmp_path)

    assert [image.path for image in scan.images] == ["cats/1.jpg", "dogs/2.jpg"]
    assert scan.skipped == [
        Skipped("cats/loop.jpg", "Too many levels of symbolic links"),
        Skipped("loop", "not in a class folder"),
    ]


def test_scan_linked_picture_and_folder_are_taken_under_the_link_names(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make(tmp_path, "photos/cats/1.jpg", "photos/dogs/2.jpg", "elsewhere/3.jpg", "4.jpg")
    (folder / "dogs/more").symlink_to(tmp_path / "elsewhere")
    (folder / "cats/linked.jpg").symlink_to(tmp_path / "4.jpg")

    scan = scan_images(folder)

    assert [image.path for image in scan.images] == [
        "cats/1.jpg",
        "cats/linked.jpg",
        "dogs/2.jpg",
        "dogs/more/3.jpg",
    ]
    assert scan.images[1].num_bytes == len(b"bytes of 4.jpg")


def test_scan_pipe_named_as_a_picture_is_skipped_and_not_opened(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    os.mkfifo(tmp_path / "dogs/pipe.jpg")
    assert scan_images(tmp_path).skipped == [Skipped("dogs/pipe.jpg", "not a regular file")]


@pytest.mark.parametrize(
    "name",
    ["two words.jpg", 'it\'s "quoted".jpg', "new\nline.jpg", "100%.jpg", "ünï-猫.jpg", "-q.jpg", "a;b.jpg"],
)
def test_scan_unusual_file_name_is_kept_as_it_is(tmp_path: Path, name: str) -> None:
    make(tmp_path, f"cats/{name}", "dogs/2.jpg")

    image = scan_images(tmp_path).images[0]

    assert image.path == f"cats/{name}"
    assert (tmp_path / image.path).read_bytes() == b"bytes of cats/" + name.encode()


def test_scan_names_that_are_not_utf8_lead_back_to_their_files(tmp_path: Path) -> None:
    label, name = os.fsdecode(b"k\xe4tzchen"), os.fsdecode(b"f\xfcr.jpg")
    make(tmp_path, f"{label}/{name}", "dogs/2.jpg")

    image = scan_images(tmp_path).images[1]

    assert (image.path, image.label) == (f"{label}/{name}", label)
    assert (tmp_path / image.path).read_bytes() == b"bytes of k\xe4tzchen/f\xfcr.jpg"


def test_scan_twice_gives_the_same_order_whatever_was_made_first(tmp_path: Path) -> None:
    paths = ["a/2.jpg", "a/10.jpg", "a/b/1.jpg", "a-b/1.jpg", "b/1.jpg", "B/1.jpg"]
    make(tmp_path / "one", *paths)
    make(tmp_path / "two", *reversed(paths))

    one, two = scan_images(tmp_path / "one"), scan_images(tmp_path / "two")

    assert [image.path for image in one.images] == sorted(paths)
    assert [image.path for image in two.images] == sorted(paths)


def test_scan_missing_folder_raises_usage_error_with_exit_status_2(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    with pytest.raises(UsageError) as raised:
        scan_images(folder)
    assert raised.value.exit_status == 2
    assert str(raised.value) == (
        f"{folder}: expected a folder of pictures, got nothing there. Give its path with --images (DATA=)."
    )


def test_scan_file_in_place_of_the_folder_raises_usage_error(tmp_path: Path) -> None:
    make(tmp_path, "photos.zip")
    with pytest.raises(UsageError, match=r"photos\.zip: expected a folder of pictures, got a file there\. "):
        scan_images(tmp_path / "photos.zip")


def test_scan_folder_without_pictures_says_how_many_folders_were_looked_at(tmp_path: Path) -> None:
    make(tmp_path, "cats/notes.txt", "dogs/notes.txt", "stray.jpg")
    with pytest.raises(HeadstartError) as raised:
        scan_images(tmp_path)
    assert raised.value.exit_status == 1
    assert str(raised.value) == (
        f"{tmp_path}: expected a folder for each class with pictures in it, got 2 folders and no picture in"
        " them. Put each class's pictures into a folder of its own."
    )


@pytest.mark.parametrize("paths", [["cats/1.jpg"], ["train/cats/1.jpg", "validation/cats/2.jpg"]])
def test_scan_one_class_only_is_refused_by_name(tmp_path: Path, paths: list[str]) -> None:
    make(tmp_path, *paths)
    with pytest.raises(HeadstartError, match=r"expected two or more classes, got one, 'cats'\."):
        scan_images(tmp_path)


def test_scan_empty_class_folder_is_refused_by_path(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "val/cats/3.jpg", "val/dogs/notes.txt")
    with pytest.raises(HeadstartError) as raised:
        scan_images(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/val/dogs: expected pictures of the class, got none. ")


def test_scan_train_beside_another_folder_is_refused_as_ambiguous(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "owls/3.jpg")
    with pytest.raises(HeadstartError) as raised:
        scan_images(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}: expected either class folders or train/ beside validation/ or test/, got train/ beside"
        " 'owls'. Move 'owls' into train/, or rename train/ if it is a class."
    )


def test_scan_validation_class_that_is_not_in_train_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "val/cats/3.jpg", "val/owls/4.jpg")
    with pytest.raises(HeadstartError, match=r"got 'owls', which is not in train/\."):
        scan_images(tmp_path)
