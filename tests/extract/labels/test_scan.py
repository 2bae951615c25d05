"""Labels of a table for the pictures of a folder: splits, rows and pictures that do not fit, messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from extract.labels.scan import scan_labeled
from tests.commands import list_warnings
from tests.errors import raises
from tests.inputs.tables import label, label_rows, write_table

pytestmark = pytest.mark.unit

FLAT = ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
ROWS: list[list[object]] = [["id", "label"], *([number, "ab"[number % 2]] for number in range(1, 5))]


def fill(folder: Path, paths: list[str]) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"picture")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "labels.csv", ROWS)


def test_label_pictures_in_a_flat_folder_have_no_split(table: Path) -> None:
    images, found = label_rows(table, FLAT)
    assert [(image.path, image.label, image.split) for image in images] == [
        ("1.jpg", "b", ""),
        ("2.jpg", "a", ""),
        ("3.jpg", "b", ""),
        ("4.jpg", "a", ""),
    ]
    assert (found.num_rows, found.classes, found.source.table) == (4, ["a", "b"], "labels.csv")


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.txt", "labels.parquet"])
def test_scan_labeled_accepts_each_format(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "pictures", FLAT)
    table = tmp_path / name
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        header, *rows = ROWS
        parquet.write_table(pyarrow.table([*map(list, zip(*rows, strict=True))], names=header), table)
    else:
        write_table(table, ROWS, {"labels.csv": ",", "labels.tsv": "\t", "labels.txt": " "}[name])
    images = scan_labeled(tmp_path / "pictures", table).images
    assert [image.label for image in images] == ["b", "a", "b", "a"]


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["train/1.jpg", "train/2.jpg", "train/3.jpg", "train/4.jpg", "test/5.jpg"], ["train"] * 4),
        (["train/1.jpg", "train/2.jpg", "validation/3.jpg", "test/4.jpg"], ["train", "train", "validation", "test"]),
        (
            ["data/train/1.jpg", "data/train/2.jpg", "data/test/a/3.jpg", "data/test/4.jpg"],
            ["train"] * 2 + ["test"] * 2,
        ),
        (["part_1/1.jpg", "part_1/2.jpg", "part_2/3.jpg", "part_2/4.jpg"], [""] * 4),
        (["train/1.jpg", "train/2.jpg", "train/3.jpg", "train/4.jpg"], [""] * 4),
    ],
)
def test_label_pictures_in_folders_of_splits_have_these_splits(
    table: Path, paths: list[str], splits: list[str]
) -> None:
    images, _ = label_rows(table, sorted(paths))
    assert {image.path: image.split for image in images} == dict(zip(paths, splits, strict=False))


def test_label_pictures_partly_in_folders_of_splits_is_refused(table: Path) -> None:
    folder = table.parent / "pictures"
    with raises(HeadstartError, where=folder):
        label(table, ["train/1.jpg", "train/2.jpg", "more/3.jpg", "more/4.jpg"])


def test_label_pictures_counts_rows_and_pictures_that_do_not_fit(tmp_path: Path) -> None:
    rows: list[list[object]] = [*ROWS, [1, "b"], [5, ""], [6, ""], [7, "a"], [8, "b"]]
    labels, found = label(write_table(tmp_path / "labels.csv", rows), [*FLAT, "5.jpg", "6.jpg", "9.jpg"])
    assert sorted(labels) == FLAT
    assert found.missing == ["7", "8"]
    assert found.repeated == ["1.jpg"]
    assert found.unlabeled == ["5.jpg", "6.jpg"]
    assert found.unlisted == ["9.jpg"]
    counts = {name: found.to_json()[name]["count"] for name in ("missing", "repeated", "unlabeled", "unlisted")}
    assert counts == {"missing": 2, "repeated": 1, "unlabeled": 2, "unlisted": 1}


def test_label_pictures_lists_the_first_five_of_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = [f"gone{number}" for number in range(7)]
    _, found = label(write_table(tmp_path / "labels.csv", [*ROWS, *((name, "a") for name in gone)]), FLAT)
    found.log(Console())
    (warning,) = list_warnings(capsys.readouterr().err)
    assert "7 rows" in warning
    assert "gone4" in warning
    assert "gone5" not in warning
    assert found.to_json()["missing"] == {"count": 7, "first": gone[:5]}


@pytest.mark.parametrize(("path", "is_warned"), [("test/5.jpg", False), ("train/5.jpg", True)])
def test_label_pictures_warns_of_pictures_without_a_row_unless_the_whole_folder_has_none(
    table: Path, path: str, is_warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = label(table, sorted([*(f"train/{name}" for name in FLAT), path]))
    found.log(Console())
    err = capsys.readouterr().err
    assert path in err
    assert bool(list_warnings(err)) == is_warned


@pytest.mark.parametrize(
    "rows",
    [
        [*ROWS, [1, "a"]],
        [*ROWS, [1, ""]],
        [*ROWS, ["1.jpg", "a"]],
        [[*ROWS[0], "split"], *([*row, "train"] for row in ROWS[1:]), [1, "b", "test"]],
    ],
)
def test_label_pictures_with_contradicting_rows_is_refused(tmp_path: Path, rows: list[list[object]]) -> None:
    table = write_table(tmp_path / "labels.csv", rows)
    with raises(HeadstartError, where=table) as caught:
        label(table, FLAT)
    assert "1 picture" in caught.value.got
    assert "1.jpg" in caught.value.got


def test_label_pictures_with_several_pictures_for_a_row_is_refused_and_the_advice_works(table: Path) -> None:
    paths = [f"{split}/{name}" for split in ("test", "train") for name in FLAT]
    with raises(HeadstartError, where=table) as caught:
        label(table, paths)
    assert f"{table.parent / 'pictures/train'}" in caught.value.advice
    assert sorted(label(table, FLAT, folder=table.parent / "pictures/train")[0]) == FLAT


def test_label_pictures_with_equal_stems_is_refused(table: Path) -> None:
    with raises(HeadstartError, where=table) as caught:
        label(table, [*FLAT, "1.png"])
    assert "extension" in caught.value.advice


def test_label_pictures_with_another_table_shows_a_value_and_a_path(tmp_path: Path) -> None:
    table = write_table(tmp_path / "labels.csv", [["id", "label"], ["x1", "a"], ["x2", "b"]])
    with raises(HeadstartError, where=table) as caught:
        label(table, FLAT)
    assert "'x1'" in caught.value.got
    assert "'1.jpg'" in caught.value.got


def test_label_pictures_with_a_header_only_is_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "labels.csv", ROWS[:1])
    with raises(HeadstartError, where=table, got="only a header"):
        label(table, FLAT)


def test_label_pictures_normalizes_labels_to_nfc_and_keeps_spaces(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["id", "label"],
        [1, "Mu\u0308ller \u732b"],
        [2, "M\u00fcller \u732b"],
        [3, " b c "],
        [4, "b c"],
    ]
    labels, found = label(write_table(tmp_path / "labels.csv", rows), FLAT)
    assert found.classes == sorted(set(labels.values())) == ["M\u00fcller \u732b", "b c"]


def test_label_pictures_with_a_bar_in_the_name_of_a_class_is_refused(tmp_path: Path) -> None:
    rows: list[list[object]] = [["id", "a|b", "c", "d"], [1, 1, 0, 0], [2, 0, 1, 1], [3, 1, 0, 0], [4, 0, 1, 0]]
    table = write_table(tmp_path / "labels.csv", rows)
    with raises(HeadstartError, where=table, got="'a|b'"):
        label(table, FLAT)


def test_scan_labeled_with_one_class_is_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "labels.csv", [["id", "label"], *([number, "a"] for number in range(1, 5))])
    fill(tmp_path / "pictures", FLAT)
    with raises(HeadstartError, where=table):
        scan_labeled(tmp_path / "pictures", table, "label=label")


def test_scan_labeled_lists_pictures_without_a_label_as_skipped_but_not_the_table(tmp_path: Path) -> None:
    fill(tmp_path / "pictures", [*FLAT, "a/5.jpg", "a/6.jpg"])
    (tmp_path / "pictures/notes.txt").write_text("notes")
    (tmp_path / "pictures/gone.csv").symlink_to("nowhere")
    table = write_table(tmp_path / "pictures/labels.csv", [*ROWS, [5, ""]])
    scan = scan_labeled(tmp_path / "pictures", table)
    assert [(image.path, image.num_bytes) for image in scan.images] == [(path, 7) for path in FLAT]
    assert [found.path for found in scan.skipped] == ["a/5.jpg", "a/6.jpg", "gone.csv", "notes.txt"]
    assert scan.count_by_class() == {"": {"a": 2, "b": 2}}


def test_scan_labeled_without_folder_pictures_or_table_is_refused(tmp_path: Path, table: Path) -> None:
    folder = tmp_path / "pictures"
    with raises(UsageError, where=folder):
        scan_labeled(folder, table)
    folder.mkdir()
    with raises(HeadstartError, where=folder):
        scan_labeled(folder, table)
    fill(folder, FLAT)
    with raises(UsageError, where=tmp_path / "missing.csv"):
        scan_labeled(folder, tmp_path / "missing.csv")


def test_scan_labeled_through_a_link_to_the_folder_accepts_absolute_paths(tmp_path: Path) -> None:
    fill(tmp_path / "pictures", FLAT)
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    rows = [ROWS[0], *([f"{tmp_path}/pictures/{row[0]}.jpg", row[1]] for row in ROWS[1:])]
    table = write_table(tmp_path / "labels.csv", rows)
    assert len(scan_labeled(tmp_path / "link", table).images) == 4


def test_scan_labeled_counts_each_of_several_labels(tmp_path: Path) -> None:
    fill(tmp_path / "pictures", FLAT)
    table = write_table(tmp_path / "labels.csv", [["id", "label"], [1, "a|b"], [2, "b"], [3, "b|a"], [4, "a"]])
    scan = scan_labeled(tmp_path / "pictures", table)
    assert [image.label for image in scan.images] == ["a|b", "b", "a|b", "a"]
    assert scan.count_by_class() == {"": {"a": 3, "b": 3}}
    assert scan.label_source.is_multi_label
