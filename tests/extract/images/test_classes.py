"""Classes that are left out, and the checks of what training requires."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from extract.images.classes import Counts, check_classes, find_excluded, parse_classes
from extract.images.scan import Scan, check_scan, leave_out_classes, scan_images
from features.catalog.tables import ImageRow
from tests.errors import raises
from tests.extract.images.advice import Options, make_classes, make_files
from tests.inputs.folders import respect_permissions

pytestmark = pytest.mark.unit

FOLDER = Path("pictures")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Mu\u0308ller, two words,,dogs", ["M\u00fcller", "two words", "dogs"]),
        ("dogs,Pepper,_bell,cats", ["dogs", "Pepper,_bell", "cats"]),
        ("dogs, retriever, golden,cats ", ["dogs", "retriever, golden", "cats "]),
        ("Pepper,_bells, ,", ["Pepper", "_bells"]),
        (" , ", []),
    ],
)
def test_parse_classes_separates_labels_but_not_names_with_commas(text: str, labels: list[str]) -> None:
    names = ["M\u00fcller", "two words", "dogs", "cats", "cats ", "Pepper,_bell", "retriever, golden"]
    assert parse_classes(text, names) == labels


@pytest.mark.parametrize(
    ("counts", "min_pictures", "excluded"),
    [
        ({"": {"cats": 9, "dogs": 9, "owls": 2, "bats": 0}}, 0, []),
        ({"": {"cats": 9, "dogs": 9, "owls": 2, "bats": 0}}, 1, ["bats"]),
        ({"": {"cats": 9, "dogs": 9, "owls": 2, "bats": 0}}, 3, ["bats", "owls"]),
        ({"train": {"cats": 9, "dogs": 9}, "validation": {"cats": 1}}, 1, ["dogs"]),
        ({"train": {"cats": 9}, "validation": {"cats": 1, "dogs": 9}}, 5, ["dogs"]),
        ({"train": {"cats": 9}, "test": {"cats": 1, "dogs": 9}}, 1, ["dogs"]),
    ],
)
def test_find_excluded_counts_training_pictures(counts: Counts, min_pictures: int, excluded: list[str]) -> None:
    assert sorted(find_excluded(counts, [], min_pictures)) == excluded


def test_find_excluded_of_an_unknown_label_is_refused_with_it_and_the_labels() -> None:
    with raises(UsageError, where="--classes", got="'owls'") as caught:
        find_excluded({"": {"cats": 1, "dogs": 1}}, ["cats", "owls"], 0)
    assert "cats, dogs" in caught.value.expected


@pytest.mark.parametrize(
    "counts",
    [
        {"": {"cats": 2, "dogs": 2}},
        {"train": {"cats": 1, "dogs": 1}, "validation": {"cats": 1, "dogs": 1}, "test": {"cats": 1}},
    ],
)
def test_check_classes_accepts_what_can_be_trained(counts: Counts) -> None:
    check_classes(FOLDER, counts)


def test_check_classes_reports_all_problems_at_once() -> None:
    counts = {"train": {"cats": 1, "dogs": 1, "Owls": 1}, "validation": {"cats": 1, "owls": 1}, "test": {"bats": 1}}
    with raises(HeadstartError, where=FOLDER) as caught:
        check_classes(FOLDER, counts, ["train/apes"])
    names = ["train/apes", "(Owls, dogs)", "(bats, owls)", "'owls' and 'Owls'"]
    assert [name for name in names if name not in caught.value.got] == []


@pytest.mark.parametrize("counts", [{"": {"cats": 9}}, {"train": {"cats": 9}, "test": {"cats": 1}}])
def test_check_classes_of_one_class_is_refused_with_its_label(counts: Counts) -> None:
    with raises(HeadstartError, where=FOLDER) as caught:
        check_classes(FOLDER, counts)
    assert "'cats'" in caught.value.got


def test_scan_with_classes_lists_the_others_with_their_pictures(tmp_path: Path) -> None:
    make_classes(tmp_path, "train", "val", labels=["cats", "dogs", "owls"])
    make_files(tmp_path, "train/owls/notes.txt")
    scan = Options(tmp_path, classes="dogs,cats").scan()
    assert {image.label for image in scan.images} == {"cats", "dogs"}
    assert {found.path: found.num_pictures for found in scan.skipped} == {"train/owls": 3, "val/owls": 3}


def test_scan_unreadable_class_folder_is_refused_with_its_reason(tmp_path: Path) -> None:
    make_classes(tmp_path, "", labels=["cats", "dogs", "owls"])
    (tmp_path / "owls").chmod(0)
    try:
        with respect_permissions(), raises(HeadstartError, where=tmp_path) as caught:
            Options(tmp_path).scan()
    finally:
        (tmp_path / "owls").chmod(0o755)
    assert f"owls: an unreadable folder ({os.strerror(errno.EACCES)})" in caught.value.got


def test_describe_many_classes_is_short(tmp_path: Path) -> None:
    make_classes(tmp_path, "", labels=[f"class{n:03}" for n in range(300)])
    make_files(tmp_path, "class007/9.jpg")
    lines = Options(tmp_path).scan().describe(tmp_path)
    assert sum(map(len, lines)) < 300
    assert "class007" in lines[0]


@pytest.mark.parametrize("labels", [("A", "a"), ("01", "1"), ("0", "00"), ("cats", "cats ")])
def test_check_scan_of_similar_labels_warns_of_them(tmp_path: Path, labels: tuple[str, str]) -> None:
    make_classes(tmp_path, "", labels=[*labels, "10"])
    (warning,) = check_scan(tmp_path, scan_images(tmp_path))
    assert [label for label in labels if repr(label) not in warning] == []
    assert repr("10") not in warning


def test_leave_out_classes_of_a_table_lists_each_picture() -> None:
    images = [
        ImageRow(f"{number}.jpg", label, "", 1, 1) for number, label in enumerate(["cats", "dogs", "cats", "owls"])
    ]
    for options in ("cats", 0), ("", 2):
        left = leave_out_classes(Scan(images, []), *options)
        assert [image.path for image in left.images] == ["0.jpg", "2.jpg"]
        assert [found.path for found in left.skipped] == ["1.jpg", "3.jpg"]
