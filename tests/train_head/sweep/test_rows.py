"""Scores of heads, the order of rows, and the table of a sweep."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from base.errors import HeadstartError
from tests.errors import raises
from tests.train_head.sweeps import make_row
from train_head.evaluation.uncertainty import compute_interval
from train_head.sweep.config import MetricName
from train_head.sweep.rows import (
    Row,
    Status,
    count_close,
    find_best,
    score_accuracies,
    score_losses,
    score_run,
    shorten_paths,
    sort_rows,
)
from train_head.sweep.table import Sweep, describe_best, format_rows, write_table

pytestmark = pytest.mark.unit

ACCURACY, LOSS = MetricName.VAL_ACCURACY, MetricName.VAL_LOSS


def test_score_accuracies_of_one_fit_has_wilsons_interval() -> None:
    # Wilson 1927 by hand for 81 of 100: centre (81 + z²/2) / (100 + z²), z = 1.96.
    score = score_accuracies([0.81], 100)
    centre, half = (81 + 1.92073) / 103.84146, 1.959964 / 103.84146 * np.sqrt(81 * 19 / 100 + 1.959964**2 / 4)
    assert (score.metric, score.num_fits) == (0.81, 1)
    assert score.low == pytest.approx(centre - half, abs=1e-5)
    assert score.high == pytest.approx(centre + half, abs=1e-5)
    assert score.standard_error == pytest.approx(np.sqrt(0.81 * 0.19 / 100), rel=0.05)


def test_score_accuracies_of_a_perfect_fit_has_a_positive_standard_error() -> None:
    score = score_accuracies([1.0], 50)
    assert score.high == pytest.approx(1.0)
    assert score.low == pytest.approx(50 / (50 + 1.959964**2))
    assert score.standard_error > 0.01


def test_score_accuracies_of_several_fits_has_their_mean_and_deviation() -> None:
    score = score_accuracies([0.4, 0.6, 0.8], 300)
    assert [score.metric, score.std, score.num_fits] == pytest.approx([0.6, 0.2, 3])
    assert (score.low, score.high) == compute_interval(180, 300)
    assert score.standard_error == pytest.approx(np.sqrt(0.6 * 0.4 / 300), rel=0.02)


def test_score_losses_has_the_mean_and_its_standard_error() -> None:
    # Variance of 1, 2, 3, 6 as of a sample: (4 + 1 + 0 + 9) / 3.
    score = score_losses(np.array([1, 2, 3, 6], np.float32))
    error = np.sqrt(14 / 3 / 4)
    assert [score.metric, score.standard_error] == pytest.approx([3.0, error])
    # Student's t of three degrees of freedom: 3.1824; the best of five has a level of 99 %, 5.8409.
    assert [score.low, score.high] == pytest.approx([max(0, 3 - 3.1824 * error), 3 + 3.1824 * error], rel=1e-3)
    assert score_losses(np.array([1, 2, 3, 6], np.float32), 5).high == pytest.approx(3 + 5.8409 * error, rel=1e-3)
    assert score_losses(np.array([0.5], np.float32)).standard_error == 0.0


@pytest.mark.parametrize(
    ("summaries", "value", "num_fits", "num_pictures"),
    [
        ({}, 0.75, 1, 40),
        ({"repeats": {"val_accuracies": [0.75, 0.85]}}, 0.8, 2, 40),
        ({"repeats": {"val_accuracies": [0.75, 0.85]}, "folds": {"val_accuracies": [0.5, 0.6, 0.7]}}, 0.6, 3, 100),
    ],
    ids=["one", "repeats", "folds"],
)
def test_score_run_prefers_folds_to_repeats_to_one_fit(
    summaries: dict[str, Any], value: float, num_fits: int, num_pictures: int
) -> None:
    metrics = {"val_accuracy": 0.75, "num_train": 60, "num_validation": 40, **summaries}
    score = score_run(metrics, np.ones(40, np.float32), ACCURACY)
    assert score.metric == pytest.approx(value)
    assert score.num_fits == num_fits
    assert score.standard_error == pytest.approx(np.sqrt(value * (1 - value) / num_pictures), rel=0.06)


def test_score_run_by_loss_ignores_accuracies() -> None:
    losses = np.array([0.25, 0.75], np.float32)
    metrics = {"val_accuracy": 0.75, "num_train": 60, "num_validation": 2}
    assert score_run(metrics, losses, LOSS) == score_losses(losses)


def test_sort_rows_sorts_by_metric_then_loss_with_unscored_rows_last() -> None:
    rows = [
        make_row("diverged", None, 0.1, Status.DIVERGED),
        make_row("second", 0.9, 0.3),
        make_row("baseline", 0.85, 0.1, Status.BASELINE),
        make_row("pruned", None, 0.05, Status.PRUNED),
        make_row("worst", 0.8, 0.2),
        make_row("first", 0.9, 0.2),
    ]
    assert [row.name for row in sort_rows(rows, ACCURACY)] == [
        "first", "second", "baseline", "worst", "pruned", "diverged",
    ]  # fmt: skip


def test_sort_rows_by_loss_puts_the_lowest_first() -> None:
    rows = [make_row("high", 0.9), make_row("low", 0.2), make_row("pruned", None, status=Status.PRUNED)]
    assert [row.name for row in sort_rows(rows, LOSS)] == ["low", "high", "pruned"]


def test_find_best_returns_a_head_that_was_fitted_to_the_end() -> None:
    rows = [
        make_row("baseline", 0.99, status=Status.BASELINE),
        make_row("head", 0.7),
        make_row("diverged", None, status=Status.DIVERGED),
    ]
    found = find_best(rows, ACCURACY)
    assert found is not None
    assert found.name == "head"
    assert find_best([rows[0], rows[2]], ACCURACY) is None


def test_count_close_counts_heads_within_one_standard_error() -> None:
    # The standard error is 0.02.
    rows = [make_row(str(value), value) for value in (0.90, 0.89, 0.881, 0.879, 0.7)]
    rows += [make_row("b", 0.9, status=Status.BASELINE), make_row("p", None, status=Status.PRUNED)]
    assert count_close(rows, rows[0], ACCURACY) == 3
    losses = [make_row(str(value), value) for value in (0.30, 0.319, 0.321)]
    assert count_close(losses, losses[0], LOSS) == 2


def test_write_table_writes_a_column_for_each_axis_and_every_row(tmp_path: Path) -> None:
    rows = [
        make_row("a", 0.9, 0.25, cut="mixed7", units=4),
        make_row("b", None, 0.5, Status.PRUNED, cut="caf\udce9", units=8),
        make_row("base, line", 0.5, 0.75, Status.BASELINE),
    ]
    write_table(tmp_path / "sweep.csv", rows, ["cut", "units"])
    with (tmp_path / "sweep.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == [
        "name", "status", "cut", "units", "metric", "low", "high", "num_candidates", "standard_error", "num_fits",
        "std", "val_accuracy", "val_loss", "epochs", "seconds", "run",
    ]  # fmt: skip
    assert [(row["name"], row["status"], row["cut"], row["units"], row["metric"]) for row in found] == [
        ("a", "done", "mixed7", "4", "0.9"),
        ("b", "pruned", "caf\udce9", "8", ""),
        ("base, line", "baseline", "", "", "0.5"),
    ]
    assert [row["run"] for row in found] == ["trials/a", "trials/b", ""]


def test_format_rows_has_the_ten_best_heads_and_every_baseline() -> None:
    heads = [make_row(f"{n}", 0.9 - n / 100, cut="mixed7", units=n) for n in range(12)]
    shown = format_rows([*heads, make_row("logistic", 0.8, status=Status.BASELINE)], ["cut", "units"], ACCURACY)
    assert shown[0][:3] == ("", "cut, units", "accuracy")
    assert [row[0] for row in shown[1:4]] == ["best", "2", "3"]
    assert shown[1][1:] == ("mixed7, 0", "0.9000", "0.8000 to 1.0000", "0.5000", "0.5 s")
    assert [shown[10][1], shown[12][1]] == ["mixed7, 9", "logistic"]
    assert " 2 " in shown[11][1]
    assert len(shown) == 13
    assert {len(row) for row in shown} == {6}


def test_score_accuracies_of_the_best_of_many_has_a_wider_interval() -> None:
    one, many = score_accuracies([0.72], 100), score_accuracies([0.72], 100, 24)
    assert (many.low, many.high) == compute_interval(72, 100, 24)
    assert many.low < one.low < one.high < many.high
    assert (many.metric, many.standard_error) == (one.metric, one.standard_error)
    head, baseline = Row("a", Status.DONE, {}, many, 0.72), Row("guess", Status.BASELINE, {}, one, 0.72)
    assert "24" in format_rows([head, baseline], [], ACCURACY)[0][3]
    summary, warning = describe_best([head, baseline], head, ACCURACY, "the best of 24 heads")
    for text in ("0.7200", "the best of 24 heads", f"{one.standard_error:.4f}", "1 of 1"):
        assert text in summary
    assert "guess" in warning
    assert "0.7200" in warning


def test_describe_best_of_one_head_that_beats_the_baselines_has_one_line() -> None:
    head, baseline = make_row("a", 0.72), make_row("guess", 0.71, status=Status.BASELINE)
    (summary,) = describe_best([head, baseline], head, ACCURACY, "")
    for text in ("0.7200", "0.6200", "0.8200"):
        assert text in summary


def test_write_table_shortens_the_paths_of_stores(tmp_path: Path) -> None:
    rows = [
        make_row("a", 0.9, store=tmp_path / "one/store"),
        make_row("b", 0.8, store=tmp_path / "two/store"),
        make_row("c", 0.7, store=Path("plain")),
    ]
    write_table(tmp_path / "sweep.csv", rows, ["store"])
    text = (tmp_path / "sweep.csv").read_text()
    assert str(tmp_path) not in text
    found = list(csv.DictReader(text.splitlines()))
    assert [row["run"] for row in found] == ["trials/a", "trials/b", "trials/c"]
    assert [row["store"] for row in found] == ["one/store", "two/store", "plain"]


def test_shorten_paths_keeps_the_fewest_parts_that_differ() -> None:
    paths = [Path("/x/a/s"), Path("/x/b/s"), Path("/y/a/s"), Path("/x/t")]
    assert list(shorten_paths(paths).values()) == ["x/a/s", "b/s", "y/a/s", "t"]
    assert shorten_paths([Path("/x/a/s")] * 2) == {Path("/x/a/s"): "s"}


def test_format_rows_gives_status_and_epoch_of_an_unfinished_head() -> None:
    shown = format_rows([make_row("a", None, 0.5, Status.PRUNED, units=4)], ["units"], ACCURACY)
    assert shown[1] == ("1", "4", "pruned", "epoch 3", "0.5000", "0.5 s")


def test_row_describe_returns_json_types() -> None:
    done, pruned = make_row("a", 0.9, store=Path("x")), make_row("b", None, status=Status.PRUNED)
    described = done.describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert (described["values"], described["status"], described["metric"]) == ({"store": "x"}, "done", 0.9)
    assert pruned.describe()["metric"] is pruned.describe()["low"] is None


def write_sweep(folder: Path) -> Sweep:
    rows = [
        make_row("a", 0.9, 0.25, cut="mixed7", units=4, dropout=0.5),
        make_row("<b>", None, None, Status.PRUNED, cut="mixed5", units=8, dropout=0.0),
    ]
    write_table(folder / "sweep.csv", rows, ["cut", "units", "dropout"])
    return Sweep(folder)


def test_sweep_has_the_rows_of_its_table_with_their_types(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    first, second = sweep.rows
    assert (first["name"], first["cut"], first["units"], first["dropout"]) == ("a", "mixed7", 4, 0.5)
    assert (first["metric"], first["num_candidates"], first["run"]) == (0.9, 1, "trials/a")
    assert [type(first[name]) for name in ("units", "dropout", "metric", "epochs")] == [int, float, float, int]
    assert (second["status"], second["metric"], second["val_loss"]) == ("pruned", None, None)
    assert (len(sweep), repr(sweep)) == (2, f"Sweep('{tmp_path}'): 2 rows")


def test_sweep_in_a_notebook_is_a_table_with_escaped_names(tmp_path: Path) -> None:
    shown = write_sweep(tmp_path)._repr_html_()
    assert shown.count("<tr>") == 3
    assert ">&lt;b&gt;</th>" in shown
    assert shown.count(">best<") == 1
    assert shown.count(">0.9000<") == 1
    assert "0.8000 to 1.0000" in shown


@pytest.mark.parametrize("content", [None, "", "mine", "name,status,mine\n"])
def test_sweep_of_a_folder_without_a_valid_table_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "sweep.csv").write_text(content)
    with raises(HeadstartError, where=tmp_path / "sweep.csv"):
        Sweep(tmp_path)


def test_sweep_without_a_best_run_refuses_to_return_it(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    with raises(HeadstartError, where=tmp_path):
        _ = sweep.best


def test_sweep_to_pandas_returns_a_data_frame_or_names_the_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = write_sweep(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with raises(HeadstartError, where="to_pandas") as caught:
        sweep.to_pandas()
    assert "pip install pandas" in caught.value.advice
    frames = SimpleNamespace(DataFrame=lambda rows: ("frame", rows))
    monkeypatch.setitem(sys.modules, "pandas", frames)
    _, (first, second) = sweep.to_pandas()
    assert (first["is_best"], second["is_best"]) == (True, False)
    assert (first["interval_low"], first["interval_high"], first["val_accuracy"]) == (0.8, 1.0, 0.9)
    assert not {"metric", "low", "high"} & first.keys()
