"""Section of the report on pictures unlike the training pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.training import make_config, rewrite_manifest
from train_head.evaluation.outliers import OutlierDetector
from train_head.report.figures import encode_svg, plot_distances
from train_head.report.outliers import describe_outliers
from train_head.runs.read import Run
from train_head.runs.record import OUTLIERS_FILE
from train_head.train import train_head


@pytest.fixture
def run(two_classes: FeatureStore, tmp_path: Path, quiet: Console) -> Run:
    config = make_config(two_classes, tmp_path / "run", false_alarms=0.5)
    train_head(config, quiet)
    return Run(config.run)


@pytest.mark.unit
def test_describe_outliers_lists_the_most_distant_pictures_first(run: Run) -> None:
    found, detector = describe_outliers(run), run.read_outliers()
    assert found is not None
    assert detector is not None
    assert found["share_rejected"] == run.metrics["outliers"]["share_rejected"]
    distances = [row["distance"] for row in found["most_distant"]]
    assert distances == sorted(detector.validation.tolist(), reverse=True)
    assert [row["is_outlier"] for row in found["most_distant"]] == [each > found["threshold"] for each in distances]
    place = [found.path for found in run.read_predictions()].index(found["most_distant"][0]["path"])
    assert place == detector.validation.argmax()


@pytest.mark.unit
def test_describe_outliers_of_a_run_without_detector_is_none(run: Run) -> None:
    (run.folder / OUTLIERS_FILE).unlink()
    rewrite_manifest(run.folder)
    assert describe_outliers(Run(run.folder)) is None


@pytest.mark.unit
def test_describe_outliers_with_another_number_of_distances_is_value_error(run: Run) -> None:
    detector = run.read_outliers()
    assert detector is not None
    OutlierDetector(detector.model, detector.held_out, detector.validation[1:], 0.5).save(run.folder / OUTLIERS_FILE)
    rewrite_manifest(run.folder)
    with pytest.raises(ValueError):  # noqa: PT011
        describe_outliers(Run(run.folder))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_plot_distances_of_any_scale_gives_a_figure(scale: float) -> None:
    values = scale * np.random.default_rng(0).gamma(2, size=50).astype(np.float32)
    assert encode_svg(plot_distances(values, values[:9], float(values.max())), "distances").startswith("<svg")
