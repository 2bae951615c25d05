"""Predictions as lines of CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from base.errors import TargetLockedError, UsageError
from tests.errors import raises
from tests.train_head.predict.fake import make_card
from train_head.predict.config import PredictConfig, RowFormat
from train_head.predict.prediction import Prediction, predict_labels
from train_head.predict.rows import RowWriter, choose_row_format, open_rows
from train_head.runs.card import ModelCard

pytestmark = pytest.mark.unit

CARD = make_card()
OUTLIER_CARD = make_card(outlier_threshold=10.0)
NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")


def predict_row(
    image: str, shares: Sequence[float], card: ModelCard = CARD, distance: float | None = None
) -> Prediction:
    return predict_labels(Path(image), np.array(shares, np.float32), distance, card, unsure=0.5)


def format_rows(row_format: RowFormat, predictions: list[Prediction], card: ModelCard = CARD) -> bytes:
    file = io.BytesIO()
    writer = RowWriter(file, row_format, card)
    for found in predictions:
        writer.write([found])
    return file.getvalue()


def read_csv(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")))


def test_csv_has_the_probability_of_every_class() -> None:
    data = format_rows(RowFormat.CSV, [predict_row("a.jpg", [0.25, 0.625, 0.125]), predict_row("b.jpg", [1, 0, 0])])
    first, second = read_csv(data)
    assert first == {
        "image": "a.jpg", "label": "dogs", "probability": "0.625", "margin": "0.375", "is_unsure": "true",
        "p(cats)": "0.25", "p(dogs)": "0.625", "p(owls)": "0.125",
    }  # fmt: skip
    assert (second["label"], second["is_unsure"]) == ("cats", "false")


def test_csv_of_a_model_with_a_detector_has_the_distances() -> None:
    found = [predict_row("a.jpg", [1, 0, 0], OUTLIER_CARD, distance) for distance in (9.5, 10.5)]
    rows = read_csv(format_rows(RowFormat.CSV, found, OUTLIER_CARD))
    assert [(row["distance"], row["is_outlier"]) for row in rows] == [("9.5", "false"), ("10.5", "true")]


def test_jsonl_has_one_object_per_line() -> None:
    data = format_rows(RowFormat.JSONL, [predict_row("a.jpg", [0.25, 0.625, 0.125]), predict_row(NOT_UTF8, [1, 0, 0])])
    first, second = map(json.loads, data.splitlines())
    assert (first["image"], first["label"], first["is_unsure"]) == ("a.jpg", "dogs", True)
    assert first["probabilities"] == {"cats": 0.25, "dogs": 0.625, "owls": 0.125}
    assert second["image"] == NOT_UTF8


def test_jsonl_of_several_labels_has_them() -> None:
    card = make_card(is_multi_label=True, thresholds=[0.5] * 3)
    (line,) = format_rows(RowFormat.JSONL, [predict_row("a.jpg", [0.75, 0.25, 1], card)], card).splitlines()
    found = json.loads(line)
    assert (found["label"], found["labels"]) == ("cats|owls", {"owls": 1.0, "cats": 0.75})
    assert (found["margin"], found["is_unsure"]) == (0.25, True)


@pytest.mark.parametrize("name", ["=1+1.jpg", "+a.jpg", "-a.jpg", "@a.jpg", "\ta.jpg", "\ra.jpg"])
def test_csv_path_that_a_spreadsheet_would_evaluate_is_the_same_path_from_the_folder(name: str) -> None:
    (row,) = read_csv(format_rows(RowFormat.CSV, [predict_row(name, [1, 0, 0])]))
    assert row["image"] == f"./{name}"


def test_csv_label_that_a_spreadsheet_would_evaluate_is_marked_as_text() -> None:
    card = make_card(classes=["=A1", "dogs", "owls"])
    (row,) = read_csv(format_rows(RowFormat.CSV, [predict_row("a.jpg", [1, 0, 0], card)], card))
    assert (row["label"], row["p(=A1)"]) == ("'=A1", "1")


@pytest.mark.parametrize("name", [NOT_UTF8, 'quo"te,\n.jpg', "猫.jpg"])
def test_csv_keeps_the_bytes_of_a_name(name: str) -> None:
    (row,) = read_csv(format_rows(RowFormat.CSV, [predict_row(name, [1, 0, 0])]))
    assert row["image"] == name


@pytest.mark.parametrize(
    ("out", "output_format", "expected"),
    [
        ("", None, RowFormat.TABLE),
        ("", RowFormat.CSV, RowFormat.CSV),
        ("a.csv", None, RowFormat.CSV),
        ("a.JSONL", None, RowFormat.JSONL),
        ("a.txt", RowFormat.JSONL, RowFormat.JSONL),
    ],
)
def test_choose_row_format_follows_the_option_then_the_extension(
    tmp_path: Path, out: str, output_format: RowFormat | None, expected: RowFormat
) -> None:
    config = PredictConfig([], Path("m"), output_format=output_format, out=out and str(tmp_path / out))
    assert choose_row_format(config) is expected


@pytest.mark.parametrize(
    ("out", "output_format"),
    [("a.txt", None), ("a.csv", RowFormat.TABLE), ("no folder/a.csv", None), ("folder.csv", None)],
)
def test_choose_row_format_of_an_unusable_file_is_a_usage_error(
    tmp_path: Path, out: str, output_format: RowFormat | None
) -> None:
    (tmp_path / "folder.csv").mkdir()
    config = PredictConfig([], Path("m"), output_format=output_format, out=str(tmp_path / out))
    with pytest.raises(UsageError):
        choose_row_format(config)


@pytest.mark.parametrize("row_format", [RowFormat.CSV, RowFormat.JSONL])
def test_open_rows_replaces_an_earlier_file_of_predictions(tmp_path: Path, row_format: RowFormat) -> None:
    out = tmp_path / f"out.{row_format}"
    for names in (["a.jpg", "b.jpg"], ["c.jpg"]):
        with open_rows(out, row_format, CARD) as write:
            write([predict_row(name, [1, 0, 0]) for name in names])
    assert b"c.jpg" in out.read_bytes()
    assert b"a.jpg" not in out.read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_open_rows_of_a_foreign_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("path,label\na.jpg,cats\n")
    with raises(UsageError, where=out), open_rows(out, RowFormat.CSV, CARD):
        pass
    assert out.read_text().startswith("path,label")


def write_and_interrupt(out: Path) -> None:
    with open_rows(out, RowFormat.CSV, CARD) as write:
        write([predict_row("b.jpg", [1, 0, 0])])
        raise KeyboardInterrupt


def test_open_rows_keeps_the_earlier_file_if_it_is_interrupted(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with open_rows(out, RowFormat.CSV, CARD) as write:
        write([predict_row("a.jpg", [1, 0, 0])])
    before = out.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt(out)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_open_rows_twice_at_a_time_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    once = open_rows(out, RowFormat.CSV, CARD)
    with once, raises(TargetLockedError, where=out), open_rows(out, RowFormat.CSV, CARD):
        pass
