"""Pure parts of the benchmark of extraction: choice of the kinds, pictures and tables."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from base.errors import UsageError
from base.terminal import Console
from benchmarks.extraction import choose_kinds
from benchmarks.extraction_tables import (
    Rounds,
    compare,
    find_bound,
    list_file_rows,
    list_large_rows,
    list_step_rows,
    list_tables,
)
from benchmarks.pictures import STEPS, multiply_pictures, time_steps
from benchmarks.worker import KERAS, Rate, Source
from tests.errors import raises
from tests.pictures import fill_folder

pytestmark = pytest.mark.unit

DEFAULT = "tensorflow-float32"
ROUNDS = Rounds(
    rates={
        KERAS: {Source.READY: [Rate(100, 10), Rate(80, 12)], Source.FILES: [Rate(50, 30), Rate(40, 34)]},
        DEFAULT: {
            Source.READY: [Rate(120, 8), Rate(100, 9)],
            Source.FILES: [Rate(90, 10), Rate(60, 12)],
            Source.LARGE: [Rate(15, 100), Rate(15, 110)],
        },
    },
    matrix=[110, 90],
    decoding=[30, 20],
    steps={
        Source.FILES: [dict.fromkeys(STEPS, 0.1), dict.fromkeys(STEPS, 0.3)],
        Source.LARGE: [dict.fromkeys(STEPS, 10.0), dict.fromkeys(STEPS, 10.0)],
    },
)


def test_compare_returns_the_median_of_the_ratios() -> None:
    assert compare([1, 2, 9], [1, 1, 3]) == 2


def test_find_bound_adds_the_times() -> None:
    assert find_bound(30, 60) == pytest.approx(20)


def test_list_file_rows_compares_with_the_naive_loop_and_the_engine() -> None:
    _, naive, default = list_file_rows(ROUNDS)
    assert naive[1:] == ("45.0", "1.00 x", "", "32.00", "")
    # 90 / 50 and 60 / 40; 90 / 120 and 60 / 100; 11 in all, 8.5 in the engine.
    assert default[1:] == ("75.0", "1.65 x", "0.68", "11.00", "2.50")


def test_list_large_rows_compares_with_the_bound() -> None:
    _, decoding, default = list_large_rows(ROUNDS)
    assert decoding[1] == "25.0"
    # The bounds are 24 and 16.67.
    assert default[1:] == ("15.0", "0.62", "20.3", "0.76")


def test_list_step_rows_adds_up_to_the_total() -> None:
    rows = list(list_step_rows(ROUNDS))
    assert len(rows) == len(STEPS) + 4
    for column in (1, 2):
        *parts, total = (float(row[column]) for row in rows[1:])
        assert sum(parts) == pytest.approx(total, abs=0.01)


def test_list_tables_without_extraction_and_large_pictures() -> None:
    rates = {KERAS: {Source.READY: [Rate(100, 10)], Source.FILES: [Rate(50, 30)]}}
    engines, files = list_tables(Rounds(rates, matrix=[110]))
    assert [row[1] for row in engines] == ["pictures/s", "110.0", "100.0"]
    assert [row[1] for row in files] == ["pictures/s", "50.0"]


def test_choose_kinds_returns_the_requested_kinds(quiet: Console) -> None:
    assert choose_kinds(f"{DEFAULT}, {KERAS}", quiet) == [DEFAULT, KERAS]
    assert {KERAS, DEFAULT} <= set(choose_kinds("", quiet))


def test_choose_kinds_unknown_kind_is_an_error(quiet: Console) -> None:
    with raises(UsageError, where="--kinds", got="onnx"):
        choose_kinds(f"{KERAS},onnx", quiet)


def test_multiply_pictures_writes_distinct_files_in_the_folders_of_their_classes(tmp_path: Path) -> None:
    fill_folder(tmp_path / "few", {"cats": 2, "dogs": 1})
    multiply_pictures(sorted((tmp_path / "few").rglob("*.jpg")), 7, tmp_path / "many")
    paths = sorted((tmp_path / "many").rglob("*.jpg"))
    assert {path.parent.name for path in paths} == {"cats", "dogs"}
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == len(paths) == 7


def test_time_steps_times_every_step(tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 2})
    found = time_steps(sorted(tmp_path.rglob("*.jpg")), np.zeros((3, 7, 7, 32), np.float16), 75)
    assert tuple(found) == STEPS
    assert all(milliseconds > 0 for milliseconds in found.values())
