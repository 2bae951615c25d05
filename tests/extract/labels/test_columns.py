"""Columns of a table: detected where they are certain, refused where they are not, named with `--columns`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError, UsageError
from extract.labels.columns import ColumnOption, parse_columns
from tests.errors import raises
from tests.inputs.tables import label, label_rows, write_table

pytestmark = pytest.mark.unit

NUM_PICTURES = 12
PATHS = [f"{number:03x}.jpg" for number in range(NUM_PICTURES)]
NUMBERED = [f"{number}.jpg" for number in range(NUM_PICTURES)]
STEMS = [path.removesuffix(".jpg") for path in PATHS]


def repeat(*values: object, period: int = 1) -> list[object]:
    """Return a column that repeats values, each `period` times."""
    return [values[row // period % len(values)] for row in range(NUM_PICTURES)]


def write(folder: Path, columns: dict[str, list[Any]]) -> Path:
    return write_table(folder / "labels.csv", [[*columns], *zip(*columns.values(), strict=True)])


BREEDS = repeat("boston bull", "golden retriever")
DETECTED: dict[str, tuple[dict[str, list[Any]], dict[str, Any]]] = {
    "breed table": ({"id": STEMS, "breed": BREEDS}, {"path": "id", "label": ["breed"]}),
    "file names": ({"filename": PATHS, "label": BREEDS}, {"path": "filename", "label": ["label"]}),
    "grades": ({"id_code": STEMS, "diagnosis": repeat(0, 1, 2)}, {"path": "id_code", "label": ["diagnosis"]}),
    "label first": ({"level": repeat(0, 4), "image": STEMS}, {"path": "image", "label": ["level"]}),
    "a name with the word label": (
        {"Image Index": PATHS, "Finding Labels": repeat("Mass", "Edema"), "Patient Gender": repeat("F", "M", period=2)},
        {"path": "Image Index", "label": ["Finding Labels"], "unused": ["Patient Gender"]},
    ),
    "other columns cannot be labels": (
        {
            "": list(range(NUM_PICTURES)),
            "image": STEMS,
            "url": [f"http://x/{stem}" for stem in STEMS],
            "age": repeat(50.5, 60.0),
            "source": repeat("web"),
            "kind": BREEDS,
        },
        {"path": "image", "label": ["kind"], "unused": ["1", "url", "age", "source"]},
    ),
    "class numbers beside names": (
        {"file": PATHS, "number": repeat(0, 1), "name": repeat("cat", "dog")},
        {"path": "file", "label": ["name"], "unused": ["number"]},
    ),
    "named class numbers beside names": (
        {
            "file": PATHS,
            "sex": repeat("f", "m", period=2),
            "kind": repeat("benign", "malignant"),
            "target": repeat(0, 1),
        },
        {"path": "file", "label": ["kind"], "unused": ["sex", "target"]},
    ),
    "a date for each class": (
        {"file": PATHS, "taken": repeat("2024-01-01", "2024-01-02"), "label": BREEDS},
        {"path": "file", "label": ["label"], "unused": ["taken"]},
    ),
    "a split in the name of numbers": (
        {"file": PATHS, "label": BREEDS, "split seed": list(range(NUM_PICTURES))},
        {"path": "file", "label": ["label"], "unused": ["split seed"]},
    ),
    "split": (
        {"file": PATHS, "class": BREEDS, "fold": repeat("Train", "val", "test", period=2)},
        {"path": "file", "label": ["class"], "split": "fold"},
    ),
    "one column a class": (
        {"image": STEMS, "MEL": repeat(1, 0), "NV": repeat(0, 1)},
        {"path": "image", "label": ["MEL", "NV"]},
    ),
    "a target beside properties of 0 and 1": (
        {"image": STEMS, "male": repeat(0, 1), "smoker": repeat(0, 1, period=2), "target": repeat(0, 1, period=3)},
        {"path": "image", "label": ["target"], "unused": ["male", "smoker"]},
    ),
    "decimals with commas": (
        {"image": STEMS, "age": repeat('"1,5"', "2", '"2,5"', period=2), "kind": BREEDS},
        {"path": "image", "label": ["kind"], "unused": ["age"]},
    ),
    "training and validation in one": (
        {"file": PATHS, "class": BREEDS, "set": repeat("trainval", "test", period=2)},
        {"path": "file", "label": ["class"], "split": "set"},
    ),
    "small numbers that are also names": (
        {"id": [str(number) for number in range(NUM_PICTURES)], "level": repeat(0, 1)},
        {"path": "id", "label": ["level"]},
    ),
}


@pytest.mark.parametrize("case", DETECTED)
def test_columns_of_usual_tables_are_found(tmp_path: Path, case: str) -> None:
    columns, expected = DETECTED[case]
    paths = NUMBERED if case == "small numbers that are also names" else PATHS
    labels, found = label(write(tmp_path, columns), paths)
    assert found.source.path_column == expected["path"]
    assert list(found.source.label_columns) == expected["label"]
    assert found.source.split_column == expected.get("split", "")
    assert found.unused_columns == expected.get("unused", [])
    assert sorted(labels) == sorted(paths)


AMBIGUOUS: dict[str, tuple[dict[str, list[Any]], str]] = {
    "two labels": ({"file": PATHS, "species": BREEDS, "sex": repeat("f", "m", period=2)}, "label=sex"),
    "two names with the word label": (
        {"file": PATHS, "label": BREEDS, "label_group": repeat("f", "m", period=2)},
        "label=label",
    ),
    "two paths": ({"left": PATHS, "right": PATHS[::-1], "label": BREEDS}, "path=right"),
    "two splits": (
        {"file": PATHS, "label": BREEDS, "a": repeat("train", "test"), "b": repeat("train", "val", period=2)},
        "split=a",
    ),
    "two columns of 0 and 1": ({"file": PATHS, "male": repeat(0, 1), "young": repeat(0, 1, period=2)}, "label=male"),
    "no label": ({"file": PATHS, "x": [0.5 + number for number in range(NUM_PICTURES)]}, "label=x"),
    "names with spaces, or several labels": (
        {"file": PATHS, "tags": repeat("a b", "a c", "b c", "a b c")},
        "separator= ",
    ),
    "small numbers that are no paths": ({"id": repeat(0, 1), "label": BREEDS}, "path=id"),
    "few rows": ({"file": [*PATHS[:2], *(f"no{row}.jpg" for row in range(10))], "label": BREEDS}, "path=file"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_columns_that_are_not_certain_are_refused_and_the_option_chooses(tmp_path: Path, case: str) -> None:
    columns, option = AMBIGUOUS[case]
    table = write(tmp_path, columns)
    paths = NUMBERED if "small numbers" in case else PATHS
    with raises(HeadstartError, where=table) as caught:
        label(table, paths)
    assert option.partition("=")[0] + "=" in caught.value.advice
    _, found = label(table, paths, option)
    assert found.classes


@pytest.mark.parametrize(
    ("option", "labels"),
    [
        ("label=3", ("x", "y")),
        ("label=two,path=1", ("x", "y")),
        ("path=id,separator=none,label=two", ("x", "y")),
        ("label=3-4", ("four", "two")),
        ("label=two,label=four", ("four", "two")),
    ],
)
def test_columns_are_named_by_name_position_or_range(tmp_path: Path, option: str, labels: tuple[str, str]) -> None:
    columns: dict[str, list[Any]] = {
        "id": STEMS,
        "one": repeat("a", "b"),
        "two": repeat("x", "y"),
        "four": repeat("u", "v", period=2),
    }
    if "3-4" in option or "four" in option:
        columns |= {"two": repeat(1, 0), "four": repeat(0, 1)}
    _, found = label(write(tmp_path, columns), PATHS, option)
    assert tuple(found.classes) == labels


@pytest.mark.parametrize(
    "option",
    ["label=missing", "label=0", "label=9", "label=2-9", "path=", "lable=breed", "breed", "path=id,path=id", "path=1-2"]
    + ["label=id", "path=id,label=breed,split=breed"],
)
def test_columns_option_with_an_unknown_column_or_key_is_refused(tmp_path: Path, option: str) -> None:
    with raises(UsageError, where="--columns"):
        label(write(tmp_path, {"id": STEMS, "breed": BREEDS}), PATHS, option)


def test_columns_option_with_a_name_that_two_columns_have_is_refused(tmp_path: Path) -> None:
    rows = [["id", "a", "a"], *zip(STEMS, BREEDS, repeat("x", "y", period=2), strict=True)]
    table = write_table(tmp_path / "labels.csv", rows)
    with raises(UsageError, where="--columns"):
        label(table, PATHS, "label=a")
    assert label(table, PATHS, "label=3")[1].classes == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("", ColumnOption()),
        ("path=id,label=breed,split=fold,separator=;", ColumnOption("id", ["breed"], "fold", ";")),
        ("separator=,,label=a,label=b, c", ColumnOption("", ["a", "b, c"], "", ",")),
        ("label=a=b", ColumnOption("", ["a=b"])),
    ],
)
def test_parse_columns_splits_only_before_a_key(text: str, option: ColumnOption) -> None:
    assert parse_columns(text) == option


@pytest.mark.parametrize("first", [PATHS[0], "missing.jpg", "missing"])
def test_table_without_a_header_keeps_its_first_row(tmp_path: Path, first: str) -> None:
    table = write_table(tmp_path / "labels.csv", zip([first, *PATHS[1:]], BREEDS, strict=True))
    _, found = label(table, PATHS)
    assert (found.num_rows, found.source.path_column, found.source.label_columns) == (NUM_PICTURES, "1", ("2",))
    with raises(UsageError, where="--columns"):
        label(table, PATHS, "path=id")


def test_split_column_gives_the_split_of_each_picture(tmp_path: Path) -> None:
    splits = repeat("training", "Validation", "TEST", period=2)
    paths = [f"train/{path}" for path in PATHS]
    images, _ = label_rows(write(tmp_path, {"file": PATHS, "label": BREEDS, "set": splits}), paths)
    assert [image.split for image in images] == repeat("train", "validation", "test", period=2)


def test_split_column_with_another_value_is_refused_and_can_be_left_out(tmp_path: Path) -> None:
    table = write(tmp_path, {"file": PATHS, "label": BREEDS, "set": repeat("train", "holdout", period=2)})
    with raises(HeadstartError, where=table) as caught:
        label(table, PATHS, "split=set,label=label")
    assert "holdout" in caught.value.got
    assert {image.split for image in label_rows(table, PATHS, "split=none,label=label")[0]} == {""}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("set", repeat("train", "test", "", period=2)),
        ("set", repeat("train", "holdout", period=2)),
        ("split", repeat(0, 1, period=2)),
        ("Partition", repeat("A", "B", period=2)),
        ("is_train", repeat(0, 1, period=2)),
        ("is_valid", repeat("yes", "no", period=2)),
        ("Test", repeat(0, 1, period=2)),
        ("Usage", repeat("Training", "PublicTest", "PrivateTest", period=2)),
        ("isTrainingImage", repeat("True", "False", period=2)),
    ],
)
def test_column_that_may_be_a_split_is_refused_and_can_be_left_out(
    tmp_path: Path, name: str, values: list[object]
) -> None:
    table = write(tmp_path, {"file": PATHS, "label": BREEDS, name: values})
    with raises(HeadstartError, where=table):
        label(table, PATHS)
    assert label(table, PATHS, "split=none")[1].unused_columns == [name]


SEPARATED: dict[str, tuple[list[object], list[str]]] = {
    "bar": (repeat("a|b", "b", ""), ["a|b", "b"]),
    "semicolon": (repeat("b; a", "b"), ["a|b", "b"]),
    "space between whole cells": (repeat("scab rust", "scab", "rust"), ["rust|scab", "rust", "scab"]),
    "space between numbers": (repeat("16 0", "0 7", "7", "16"), ["0|16", "0|7", "16", "7"]),
    "space in names": (repeat("golden retriever", "labrador retriever", "boston bull"), []),
    "repeated label": (repeat("a|a", "b"), ["a", "b"]),
}


@pytest.mark.parametrize("case", SEPARATED)
def test_separator_of_several_labels_is_found(tmp_path: Path, case: str) -> None:
    cells, expected = SEPARATED[case]
    labels, found = label(write(tmp_path, {"file": PATHS, "tags": cells}), PATHS)
    assert sorted(set(labels.values())) == sorted(expected or set(map(str, cells)))
    assert found.source.is_multi_label == any("|" in text for text in labels.values())


def check_single(labels: dict[str, str]) -> bool:
    return set(labels.values()) == {"A", "B", "C"}


def check_several(labels: dict[str, str]) -> bool:
    return set(labels.values()) == {"", "A", "A|B"}


@pytest.mark.parametrize(
    ("columns", "check", "is_multi_label"),
    [
        ((repeat(1, 0, 0), repeat(0, 1, 0), repeat(0, 0, 1)), check_single, False),
        ((repeat("1.0", "0.0", "0.0"), repeat("0.0", "1.0", "0.0"), repeat("0.0", "0.0", "1.0")), check_single, False),
        ((repeat(1, -1, -1), repeat(-1, 1, -1), repeat(-1, -1, 1)), check_single, False),
        ((repeat("True", "False", "False"), repeat(0, 1, 0), repeat(0, 0, 1)), check_single, False),
        ((repeat(1, 1, 0), repeat(0, 1, 0), repeat(0)), check_several, True),
    ],
)
def test_columns_of_0_and_1_are_classes(
    tmp_path: Path,
    columns: tuple[list[object], ...],
    check: Callable[[dict[str, str]], bool],
    is_multi_label: bool,
) -> None:
    labels, found = label(write(tmp_path, {"file": PATHS, **dict(zip("ABC", columns, strict=True))}), PATHS)
    assert check(labels)
    assert found.source.is_multi_label == is_multi_label


@pytest.mark.parametrize("value", ["", "-1", "0.5", "yes"])
def test_columns_of_classes_with_another_value_are_refused(tmp_path: Path, value: str) -> None:
    table = write(tmp_path, {"file": PATHS, "A": repeat(1, 0), "B": repeat(0, value)})
    with raises(HeadstartError, where=table, got=repr(value)):
        label(table, PATHS, "label=A,label=B")


def test_columns_of_classes_with_minus_1_beside_0_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path, {"file": PATHS, "A": repeat(1, 0), "B": repeat(0, -1, 1)})
    with raises(HeadstartError, where=table, got="'-1'"):
        label(table, PATHS, "label=A,label=B")
