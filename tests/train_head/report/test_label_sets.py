"""Report on a head that predicts several labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console
from tests.commands import run_command
from tests.train_head.multi_label import SETS, make_multi_label_store
from tests.train_head.report.pages import read_page
from tests.train_head.training import make_config
from train_head.config import ReportConfig
from train_head.report.label_sets import choose_uncertain_sets, describe_set, sort_wrong_sets
from train_head.report.page import report_run
from train_head.runs.read import Run
from train_head.runs.tables import Prediction
from train_head.train import train_head


def make_prediction(path: str, label: str, predicted: str, row: list[float]) -> Prediction:
    return Prediction(path, label, predicted, ["a", "b"], np.array(row, np.float32))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Run on noisy labels, with a report and test pictures."""
    folder = tmp_path_factory.mktemp("labels")
    splits = ["train"] * 24 + ["validation"] * 16 + ["test"] * 8
    store = make_multi_label_store(folder / "store", SETS * 6, splits=splits, noise=2.0)
    train_head(make_config(store, folder / "run", no_report=False, epochs=4, patience=2), quiet)
    report_run(ReportConfig(folder / "run", test=True), quiet)
    return folder / "run"


def test_report_of_several_labels_has_their_metrics_and_wrong_pictures(reported: Path) -> None:
    page, run = read_page(reported), Run(reported)
    data = page.data
    targets, probabilities = run.read_probabilities()
    assert data["run"]["is_multi_label"]
    assert data["validation"]["mean_average_precision"] == run.read_metrics()["mean_average_precision"]
    assert data["pictures"]["training"] == {"cats": 12, "dogs": 12, "owls": 12}
    assert data["num_wrong"] == int((((probabilities >= 0.5) == targets).all(axis=1) == 0).sum())
    for row in data["wrong"]:
        assert row["missing"] or row["added"]
    assert data["findings"]["confusions"] == []
    assert data["test"]["num_pictures"] == 8
    assert data["validation"]["reliability"]
    assert "Confusion matrix" not in page.headings


def test_report_command_prints_the_mean_average_precision(reported: Path) -> None:
    result = run_command("train_head.report.__main__", "--run", reported, "--json")
    assert result.status == 0
    assert result.json["evaluation"]["is_multi_label"]
    assert result.json["test"]["mean_average_precision"] is not None


def test_interval_of_the_mean_average_precision_in_the_report_allows_for_the_selection(reported: Path) -> None:
    found, evaluation = read_page(reported).data["validation"], Run(reported).read_metrics()["evaluation"]
    assert found["mean_average_precision_interval"] == pytest.approx(evaluation["mean_average_precision_interval"])


def test_sort_wrong_sets_puts_the_highest_loss_first() -> None:
    found = [
        make_prediction("right", "a", "a", [0.9, 0.1]),
        make_prediction("near", "a|b", "a", [0.9, 0.4]),
        make_prediction("far", "", "a", [0.99, 0.1]),
    ]
    assert [prediction.path for prediction in sort_wrong_sets(found)] == ["far", "near"]
    assert sort_wrong_sets([]) == []


def test_choose_uncertain_sets_takes_probabilities_near_a_half() -> None:
    found = [make_prediction(str(n), "a", "a", [0.5 + n / 10, 0.4]) for n in (3, 0, 1)]
    assert [prediction.path for prediction in choose_uncertain_sets(found, 2)] == ["0", "1"]


def test_describe_set_lists_missing_and_added_labels() -> None:
    found = describe_set(make_prediction("p", "a", "b", [0.25, 0.75]))
    assert (found["missing"], found["added"], found["correct"]) == ({"a": 0.25}, {"b": 0.75}, {})
