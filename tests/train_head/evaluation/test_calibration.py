"""Calibration: the temperature, its effect on probabilities and files of a run, and the errors that chance explains."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from features.store import FeatureStore
from tests.files import read_files
from tests.train_head.synthetic import CLASSES, SHAPE, list_paths, make_store
from tests.train_head.training import make_config
from train_head.config import ReportConfig
from train_head.data.batches import Array
from train_head.data.split import split_examples
from train_head.evaluation import calibration
from train_head.evaluation.calibration import apply_temperature, choose_temperature, describe_calibration
from train_head.report.page import report_run
from train_head.runs.read import Run
from train_head.solvers.network import compute_probabilities
from train_head.train import train_head

pytestmark = pytest.mark.unit


def draw(num_pictures: int, num_classes: int, temperature: float, seed: int = 0) -> tuple[NDArray[np.int64], Array]:
    """Draw true classes, and probabilities that the given temperature calibrates."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num_pictures, 1 if num_classes == 2 else num_classes)).astype(np.float32)
    exact = compute_probabilities(logits)
    targets = (rng.random((num_pictures, 1)) > exact.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return targets, compute_probabilities(logits * np.float32(temperature))


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("temperature", [3.0, 0.3])
def test_choose_temperature_finds_the_one_that_calibrates(num_classes: int, temperature: float) -> None:
    targets, probabilities = draw(2000, num_classes, temperature)
    found = choose_temperature(targets, probabilities)
    assert found == pytest.approx(temperature, rel=0.15)
    described = describe_calibration(targets, apply_temperature(probabilities, found), found)
    before, after = described["before_calibration"], described["calibration"]
    assert before["calibration_error"] > 0.05 > after["error"]
    assert (after["temperature"], after["is_consistent"]) == (found, True)
    before_alone = describe_calibration(targets, probabilities, 1.0)
    assert before_alone["before_calibration"] is None
    assert before_alone["calibration"]["is_consistent"] is False
    assert before_alone["calibration"]["error"] == pytest.approx(before["calibration_error"], rel=1e-3)
    json.dumps(described, allow_nan=False)


def test_choose_temperature_of_calibrated_or_few_pictures_is_1() -> None:
    assert choose_temperature(*draw(400, 2, 1.0)) == 1.0
    assert choose_temperature(*draw(49, 2, 8.0)) == 1.0
    assert choose_temperature(*draw(200, 2, 8.0)) > 3


def test_choose_temperature_with_all_pictures_right_is_finite() -> None:
    targets = np.arange(200) % 2
    for logit in (0.5, 100.0):
        probabilities = compute_probabilities(np.where(targets, logit, -logit)[:, None].astype(np.float32))
        found = apply_temperature(probabilities, choose_temperature(targets, probabilities))
        # At best, the share of one more picture right and one wrong.
        assert found.max(axis=1).min() >= min(0.99, probabilities.max(axis=1).min())


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 4.0, 900.0])
def test_apply_temperature_never_changes_the_predicted_class(num_classes: int, temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 20, (500, 1 if num_classes == 2 else num_classes)).astype(np.float32)
    # Nearly equal probabilities, equal ones, and some that round to 0 and 1.
    logits[:200] *= np.float32(1e-7)
    logits[200:220] = 0
    logits[220:300] *= 20
    probabilities = compute_probabilities(logits)
    found = apply_temperature(probabilities, temperature)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.argmax(axis=1), probabilities.argmax(axis=1))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    ordinary = slice(300, 500)
    expected = compute_probabilities(logits[ordinary] / np.float32(temperature))
    if temperature > 1:
        np.testing.assert_allclose(found[ordinary], expected, atol=1e-4)


def test_describe_calibration_of_calibrated_heads_is_consistent_about_as_often_as_stated() -> None:
    described = [describe_calibration(*draw(150, 2, 1.0, seed), 1.0)["calibration"] for seed in range(40)]
    assert sum(found["is_consistent"] for found in described) >= 36
    low, high = described[0]["expected_error"]
    assert 0 < low < high < 0.2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store with overlapping classes, 60 validation pictures and some in test/."""
    counts = {"train": 30, "validation": 30, "test": 6}
    paths = list_paths({f"{split}/{label}": num for split, num in counts.items() for label in CLASSES[:2]})
    features = np.random.default_rng(5).normal(0.3, 0.5, (len(paths), *SHAPE))
    for feature, path in zip(features, paths, strict=True):
        feature[..., CLASSES.index(path.split("/")[1])] += 0.25
    return make_store(tmp_path_factory.mktemp("calibration") / "store", paths, features=features)


@pytest.fixture(scope="module")
def runs(store: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> tuple[Run, Run]:
    """The same over-fitted head, calibrated and not calibrated."""
    folder, options = tmp_path_factory.mktemp("runs"), {"epochs": 60, "learning_rate": 0.03, "no_report": False}
    train_head(make_config(store, folder / "calibrated", **options), quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "MIN_PICTURES", 1000)
        train_head(make_config(store, folder / "plain", **options), quiet)
    return Run(folder / "calibrated"), Run(folder / "plain")


def test_train_records_a_temperature_and_calibrates_the_predictions(runs: tuple[Run, Run]) -> None:
    calibrated, plain = runs
    temperature = calibrated.record.temperature
    assert plain.record.temperature == 1
    assert temperature > 1.2
    targets, before = plain.read_probabilities()
    np.testing.assert_array_equal(calibrated.read_probabilities()[0], targets)
    found = calibrated.read_probabilities()[1]
    np.testing.assert_allclose(found, apply_temperature(before, temperature), atol=1e-6)
    assert [p.predicted for p in calibrated.read_predictions()] == [p.predicted for p in plain.read_predictions()]
    evaluation: dict[str, Any] = calibrated.metrics["evaluation"]
    assert evaluation["log_loss"] < evaluation["before_calibration"]["log_loss"]
    unchanged = plain.metrics["evaluation"]
    for name in ("log_loss", "brier", "calibration_error"):
        assert evaluation["before_calibration"][name] == pytest.approx(unchanged[name], rel=1e-4)
    assert unchanged["before_calibration"] is None


def test_train_with_calibration_keeps_the_head_and_its_history(runs: tuple[Run, Run]) -> None:
    calibrated, plain = (read_files(run.folder) for run in runs)
    for name in ("head.npz", "validation_logits.npy", "reduction.npz"):
        assert calibrated[name] == plain[name]
    first, second = (run.metrics for run in runs)
    for name in ("val_loss", "train_loss", "val_accuracy", "head"):
        assert first[name] == second[name]


def test_run_and_test_evaluation_use_the_temperature(
    runs: tuple[Run, Run], store: FeatureStore, quiet: Console
) -> None:
    calibrated, _ = runs
    split = split_examples(store.examples, 0.2)
    _, probabilities = calibrated.read_probabilities()
    np.testing.assert_allclose(calibrated.predict_proba(store.read(split.validation)), probabilities, atol=1e-5)
    report_run(ReportConfig(calibrated.folder, test=True), quiet)
    loss = Run(calibrated.folder).metrics["test"]["log_loss"]
    given = calibrated.predict_proba(store.read(split.test))
    truths = np.array([split.classes.index(example.label) for example in split.test])
    assert loss == pytest.approx(-np.log(given[np.arange(len(truths)), truths]).mean(), rel=1e-4)
