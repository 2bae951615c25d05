"""Report on a head of the solver ridge, which has no epochs."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.report.pages import read_page
from tests.train_head.training import make_config
from train_head.config import ReportConfig, SolverName
from train_head.report.page import report_run
from train_head.runs.read import Run
from train_head.train import train_head

pytestmark = pytest.mark.unit


def test_report_on_a_ridge_head_has_no_learning_curves(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_config(noisy, tmp_path / "run", solver=SolverName.RIDGE, no_report=False)
    metrics = train_head(config, quiet)
    report_run(ReportConfig(config.run), quiet)
    page = read_page(config.run)
    assert "Learning curves" not in page.headings
    data = page.data
    assert data["findings"]["fit"] == "balanced"
    assert (data["commands"]["fit"], data["commands"]["calibration"]) == ("", "")
    assert data["metrics"]["ridge"] == metrics["ridge"]
    assert data["validation"]["before_calibration"] is None
    assert data["validation"]["calibration"] == Run(config.run).metrics["evaluation"]["calibration"]
