"""Detector of outliers in the runs of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from base.errors import HeadstartError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.synthetic import list_paths, make_store
from tests.train_head.training import make_config, rewrite_manifest
from train_head.prepare import prepare_training
from train_head.runs.read import Run
from train_head.runs.record import OUTLIERS_FILE
from train_head.train import train_head

pytestmark = pytest.mark.unit


def test_train_writes_the_detector_with_its_digest_and_metrics(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    metrics = train_head(make_config(two_classes, tmp_path / "run"), quiet)
    run = Run(tmp_path / "run")
    detector = run.read_outliers()
    assert detector is not None
    assert metrics["outliers"] == detector.describe() == run.metrics["outliers"]
    assert metrics["outliers"]["num_validation"] == metrics["num_validation"]
    assert OUTLIERS_FILE in run.record.files
    (run.folder / OUTLIERS_FILE).write_bytes(b"edited")
    with raises(HeadstartError, where=run.folder / OUTLIERS_FILE):
        run.read_outliers()


def test_train_with_another_rate_of_false_alarms_keeps_the_head(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    first = train_head(make_config(two_classes, tmp_path / "run"), quiet)
    config = make_config(two_classes, tmp_path / "run", false_alarms=0.2)
    assert len(prepare_training(config).list_differences()) == 1
    second = train_head(config, quiet)
    assert second["head"] == first["head"]
    assert second["outliers"]["threshold"] < first["outliers"]["threshold"]


def test_run_without_detector_is_complete(two_classes: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_config(two_classes, tmp_path / "run")
    train_head(config, quiet)
    (config.run / OUTLIERS_FILE).unlink()
    rewrite_manifest(config.run)
    assert Run(config.run).read_outliers() is None
    assert prepare_training(config).is_completed()


def test_train_with_a_picture_in_each_class_writes_no_detector(tmp_path: Path, quiet: Console) -> None:
    paths = list_paths({"train/cats": 1, "train/dogs": 1, "validation/cats": 2, "validation/dogs": 2})
    store = make_store(tmp_path / "store", paths)
    assert train_head(make_config(store, tmp_path / "run"), quiet)["outliers"] is None
    assert json.loads((tmp_path / "run/metrics.json").read_text())["outliers"] is None
    assert not (tmp_path / "run" / OUTLIERS_FILE).exists()
