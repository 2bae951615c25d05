"""Scan a folder: the pictures with classes and splits, the skipped files, and the refused layouts."""

from __future__ import annotations

import errno
import os
import re
from datetime import datetime
from pathlib import Path

import pytest

from base.errors import UsageError
from extract.images.formats import AVIF, HEIC, JPEG_XL
from extract.images.recognize import describe_unsupported
from extract.images.refusals import LayoutError
from extract.images.scan import Scan, scan_images
from features.catalog.tables import ImageRow
from tests.errors import raises
from tests.features.stores import fill_store
from tests.without_decoders import hide_decoders

pytestmark = pytest.mark.unit


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"bytes of " + os.fsencode(path))


def list_found(scan: Scan) -> list[tuple[str, str, str]]:
    return [(image.path, image.label, image.split) for image in scan.images]


def list_paths(scan: Scan) -> list[str]:
    return [image.path for image in scan.images]


def list_skipped(scan: Scan) -> list[str]:
    assert all(skipped.reason for skipped in scan.skipped)
    return [skipped.path for skipped in scan.skipped]


def assert_reasons(scan: Scan, expected: dict[str, str]) -> None:
    """Assert the skipped paths, each with a term that its reason contains."""
    assert list_skipped(scan) == sorted(expected)
    for skipped in scan.skipped:
        assert expected[skipped.path] in skipped.reason


def test_scan_class_folders_returns_path_label_size_and_time(tmp_path: Path) -> None:
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
def test_scan_split_folders_assigns_the_split(tmp_path: Path, train: str, other: str, split: str) -> None:
    make(tmp_path, f"{train}/cats/1.jpg", f"{train}/dogs/2.jpg", f"{other}/cats/3.jpg", f"{other}/dogs/4.jpg")

    found = {path: (label, where) for path, label, where in list_found(scan_images(tmp_path))}

    assert found == {
        f"{train}/cats/1.jpg": ("cats", "train"),
        f"{train}/dogs/2.jpg": ("dogs", "train"),
        f"{other}/cats/3.jpg": ("cats", split),
        f"{other}/dogs/4.jpg": ("dogs", split),
    }


def test_scan_three_splits_counts_pictures_by_split_and_class(tmp_path: Path) -> None:
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
    assert re.findall(r"\d+", scan.describe(Path("pictures"))[0]) == ["11", "1", "3", "3", "2", "2", "1"]


def test_scan_train_folder_alone_is_a_split(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg")
    assert list_found(scan_images(tmp_path)) == [
        ("train/cats/1.jpg", "cats", "train"),
        ("train/dogs/2.jpg", "dogs", "train"),
    ]


def test_scan_test_folder_without_train_is_a_class(tmp_path: Path) -> None:
    make(tmp_path, "test/1.jpg", "cats/2.jpg")
    assert list_found(scan_images(tmp_path)) == [("cats/2.jpg", "cats", ""), ("test/1.jpg", "test", "")]


def test_scan_nested_folders_take_the_label_of_the_class_folder(tmp_path: Path) -> None:
    make(tmp_path, "cats/tabby/old/1.jpg", "cats/2.jpg", "dogs/train/3.jpg")
    assert list_found(scan_images(tmp_path)) == [
        ("cats/2.jpg", "cats", ""),
        ("cats/tabby/old/1.jpg", "cats", ""),
        ("dogs/train/3.jpg", "dogs", ""),
    ]


def test_scan_counts_system_files_and_lists_hidden_ones(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    make(tmp_path, "cats/.3.jpg", "cats/._1.jpg", "cats/.thumbs/4.jpg", "cats/__MACOSX/5.jpg")
    make(tmp_path, "__MACOSX/cats/6.jpg", ".git/config", ".DS_Store", "cats/.DS_Store")

    scan = scan_images(tmp_path)

    assert list_paths(scan) == ["cats/1.jpg", "dogs/2.jpg"]
    assert_reasons(scan, {"cats/.3.jpg": "hidden file", "cats/.thumbs": "hidden folder"})
    assert scan.ignored == {"__MACOSX": 2, ".DS_Store": 2, "._*": 1, ".git": 1}


def test_scan_hidden_class_folders_are_skipped_with_the_number_of_pictures(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "train/.owls/3.jpg", "train/.owls/deep/4.png")
    make(tmp_path, "train/.owls/notes.txt", ".old/cats/5.jpg")

    scan = scan_images(tmp_path)

    assert list_paths(scan) == ["train/cats/1.jpg", "train/dogs/2.jpg"]
    assert [(found.path, found.num_pictures) for found in scan.skipped] == [(".old", 1), ("train/.owls", 2)]


def make_headstart_folders(folder: Path) -> None:
    """Create a folder of each kind that Headstart writes, some with pictures."""
    fill_store(folder / "store", range(2))
    fill_store(folder / "cuts/mixed7", range(2))
    make(folder, "run/run.json", "run/head.npz", "run/curves.png", "model/model.keras", "model/labels.txt")
    make(folder, "sweep/sweep.csv", "sweep/sweep.png", "sweep/trials/a/curves.png", "sweep/best/curves.png")
    make(folder, "compare/compare.png", "compare/one/run.json", "compare/one/head.npz", "compare/one/curves.png")


HEADSTART_FOLDERS = {
    "store": "feature store",
    "cuts/mixed7": "feature store",
    "run": "run",
    "model": "exported model",
    "sweep": "sweep",
    "compare": "comparison",
}
"""Folders that Headstart writes, with a term of the reason for which each is skipped."""


@pytest.mark.parametrize("place", [".", "train/cats", "work"])
@pytest.mark.parametrize("top", ["", "train/"])
def test_scan_headstart_folders_are_skipped_at_any_depth(tmp_path: Path, place: str, top: str) -> None:
    make(tmp_path, f"{top}cats/1.jpg", f"{top}dogs/2.jpg")
    place = place if top else place.removeprefix("train/")
    make_headstart_folders(tmp_path / place)

    scan = scan_images(tmp_path)

    assert list_paths(scan) == [f"{top}cats/1.jpg", f"{top}dogs/2.jpg"]
    assert_reasons(scan, {Path(place, path).as_posix(): kind for path, kind in HEADSTART_FOLDERS.items()})


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
def test_scan_folder_with_one_file_of_a_headstart_name_is_a_class(tmp_path: Path, paths: list[str]) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", *paths)
    assert {image.label for image in scan_images(tmp_path).images} == {"cats", "dogs", "owls"}


@pytest.mark.parametrize("made", ["nothing", "empty folder", "killed first run", "store"])
@pytest.mark.parametrize("place", ["store", "work/store", "cats/store"])
def test_scan_store_of_this_run_is_skipped_whether_it_exists_or_not(tmp_path: Path, place: str, made: str) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    if made == "store":
        fill_store(tmp_path / place, range(2))
    elif made == "killed first run":
        (tmp_path / place / "shards").mkdir(parents=True)
        (tmp_path / place / "catalog.sqlite").touch()
    elif made == "empty folder":
        (tmp_path / place).mkdir(parents=True)

    scan = scan_images(tmp_path, [tmp_path / place])

    assert list_paths(scan) == ["cats/1.jpg", "dogs/2.jpg"]
    assert_reasons(scan, {place: "feature store"})


@pytest.mark.parametrize("year", [2400, 1600])
def test_scan_modification_time_beyond_sqlite_range_is_clipped(tmp_path: Path, year: int) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    seconds = int((datetime(year, 1, 1) - datetime(1970, 1, 1)).total_seconds())
    os.utime(tmp_path / "cats/1.jpg", (seconds, seconds))
    if (tmp_path / "cats/1.jpg").stat().st_mtime != seconds:
        pytest.skip("the file system does not hold such a time")
    assert -(2**63) <= scan_images(tmp_path).images[0].modified_ns < 2**63


def test_scan_file_without_a_picture_extension_is_skipped_with_its_extension(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", "dogs/notes.txt", "cats/README", "cats/1.jpg.part", "dogs/3.svg")
    expected = {
        "cats/1.jpg.part": ".part",
        "cats/README": "extension",
        "dogs/3.svg": ".svg",
        "dogs/notes.txt": ".txt",
    }
    assert_reasons(scan_images(tmp_path), expected)


def test_scan_file_outside_class_folders_is_skipped(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", "stray.jpg")
    scan = scan_images(tmp_path)
    assert list_paths(scan) == ["cats/1.jpg", "dogs/2.jpg"]
    assert list_skipped(scan) == ["stray.jpg"]


def test_scan_file_beside_or_directly_in_a_split_folder_is_skipped(tmp_path: Path) -> None:
    make(tmp_path, "train/cats/1.jpg", "train/dogs/2.jpg", "train/stray.jpg", "labels.csv", "stray.png")
    assert list_skipped(scan_images(tmp_path)) == ["labels.csv", "stray.png", "train/stray.jpg"]


def test_scan_broken_link_is_skipped_with_the_reason_of_the_system(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats/gone.jpg").symlink_to("nowhere.jpg")

    scan = scan_images(tmp_path)

    assert list_paths(scan) == ["cats/1.jpg", "dogs/2.jpg"]
    assert_reasons(scan, {"cats/gone.jpg": os.strerror(errno.ENOENT)})


def test_scan_broken_link_of_git_annex_is_skipped_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats/gone.jpg").symlink_to("../.git/annex/objects/aa/bb/SHA256E-s9.jpg/SHA256E-s9.jpg")
    assert_reasons(scan_images(tmp_path), {"cats/gone.jpg": "git annex get"})
    for path in ("cats/1.jpg", "dogs/2.jpg"):
        (tmp_path / path).unlink()
    with raises(LayoutError, where=tmp_path) as caught:
        scan_images(tmp_path)
    assert "git annex get" in caught.value.got


@pytest.mark.parametrize("target", [".", "..", "../../photos", "../../photos/cats"])
def test_scan_link_to_a_folder_above_is_skipped(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "photos"
    make(folder, "cats/1.jpg", "dogs/2.jpg")
    (folder / "cats/again").symlink_to(target)

    scan = scan_images(folder)

    assert list_paths(scan) == ["cats/1.jpg", "dogs/2.jpg"]
    assert_reasons(scan, {"cats/again": "link"})


def test_scan_folders_that_link_to_each_other_are_scanned_once(tmp_path: Path) -> None:
    make(tmp_path, "cats/deep/1.jpg", "dogs/2.jpg", "elsewhere/3.jpg")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cats").symlink_to(tmp_path / "cats")
    (folder / "dogs").symlink_to(tmp_path / "dogs")
    (tmp_path / "cats/deep/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "cats/deep")

    scan = scan_images(folder)

    assert list_paths(scan) == ["cats/deep/1.jpg", "cats/deep/other/3.jpg", "dogs/2.jpg"]
    assert_reasons(scan, {"cats/deep/other/back": "link"})


def test_scan_link_to_itself_is_skipped(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    (tmp_path / "cats/loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "loop").symlink_to("loop")

    scan = scan_images(tmp_path)

    assert list_paths(scan) == ["cats/1.jpg", "dogs/2.jpg"]
    assert_reasons(scan, {"cats/loop.jpg": os.strerror(errno.ELOOP), "loop": "without an extension"})


def test_scan_linked_picture_and_folder_are_listed_under_the_names_of_the_links(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make(tmp_path, "photos/cats/1.jpg", "photos/dogs/2.jpg", "elsewhere/3.jpg", "4.jpg")
    (folder / "dogs/more").symlink_to(tmp_path / "elsewhere")
    (folder / "cats/linked.jpg").symlink_to(tmp_path / "4.jpg")

    scan = scan_images(folder)

    assert list_paths(scan) == ["cats/1.jpg", "cats/linked.jpg", "dogs/2.jpg", "dogs/more/3.jpg"]
    assert scan.images[1].num_bytes == len(b"bytes of 4.jpg")


def test_scan_pipe_with_a_picture_extension_is_skipped_unopened(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg")
    os.mkfifo(tmp_path / "dogs/pipe.jpg")
    assert list_skipped(scan_images(tmp_path)) == ["dogs/pipe.jpg"]


@pytest.mark.parametrize(
    "name",
    ["two words.jpg", 'it\'s "quoted".jpg', "new\nline.jpg", "100%.jpg", "ünï-猫.jpg", "-q.jpg", "a;b.jpg"],
)
def test_scan_unusual_file_name_is_kept_unchanged(tmp_path: Path, name: str) -> None:
    make(tmp_path, f"cats/{name}", "dogs/2.jpg")

    image = scan_images(tmp_path).images[0]

    assert image.path == f"cats/{name}"
    assert (tmp_path / image.path).read_bytes() == b"bytes of cats/" + name.encode()


def test_scan_names_that_are_not_utf8_open_their_files(tmp_path: Path) -> None:
    label, name = os.fsdecode(b"k\xe4tzchen"), os.fsdecode(b"f\xfcr.jpg")
    make(tmp_path, f"{label}/{name}", "dogs/2.jpg")

    image = scan_images(tmp_path).images[1]

    assert (image.path, image.label) == (f"{label}/{name}", label)
    assert (tmp_path / image.path).read_bytes() == b"bytes of k\xe4tzchen/f\xfcr.jpg"


def test_scan_order_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    paths = ["a/2.jpg", "a/10.jpg", "a/b/1.jpg", "a-b/1.jpg", "b/1.jpg", "B/1.jpg"]
    make(tmp_path / "one", *paths)
    make(tmp_path / "two", *reversed(paths))

    one, two = scan_images(tmp_path / "one"), scan_images(tmp_path / "two")

    assert list_paths(one) == list_paths(two) == sorted(paths)


# Refused folders.


@pytest.mark.parametrize("name", ["missing", "photos.zip"])
def test_scan_path_that_is_not_a_folder_raises_usage_error(tmp_path: Path, name: str) -> None:
    make(tmp_path, "photos.zip")
    with raises(UsageError, where=tmp_path / name) as caught:
        scan_images(tmp_path / name)
    assert caught.value.exit_status == 2


def test_scan_folder_without_pictures_is_refused_with_the_number_of_folders(tmp_path: Path) -> None:
    make(tmp_path, "cats/notes.txt", "dogs/notes.txt", "labels.csv")
    with raises(LayoutError, where=tmp_path) as caught:
        scan_images(tmp_path)
    assert caught.value.exit_status == 1
    assert "2 folders" in caught.value.got


@pytest.mark.parametrize("paths", [["cats/1.jpg"], ["train/cats/1.jpg", "validation/cats/2.jpg"]])
def test_scan_single_class_is_refused_with_its_folder(tmp_path: Path, paths: list[str]) -> None:
    make(tmp_path, *paths)
    with raises(LayoutError, where=tmp_path) as caught:
        scan_images(tmp_path)
    assert "cats/" in caught.value.got


def test_scan_without_decoders_skips_their_pictures_with_the_install_command(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "dogs/2.jpg", "cats/3.HEIC", "dogs/4.jxl", "dogs/5.avif", "cats/6.heif")
    assert len(scan_images(tmp_path).images) == 6
    with hide_decoders():
        scan = scan_images(tmp_path)
        assert list_paths(scan_images(tmp_path, known=["cats/3.HEIC"])) == ["cats/1.jpg", "cats/3.HEIC", "dogs/2.jpg"]
    assert list_paths(scan) == ["cats/1.jpg", "dogs/2.jpg"]
    reasons = {found.path: found.reason for found in scan.skipped}
    expected = {"cats/3.HEIC": HEIC, "cats/6.heif": HEIC, "dogs/4.jxl": JPEG_XL, "dogs/5.avif": AVIF}
    assert reasons == {path: each.missing_reason for path, each in expected.items()}
    extra, avif = describe_unsupported(reasons.items())
    assert [term for term in (" 3 ", "HEIC and JPEG XL", "cats/3.HEIC", HEIC.install) if term not in extra] == []
    assert [term for term in (" 1 ", "dogs/5.avif", AVIF.install) if term not in avif] == []
