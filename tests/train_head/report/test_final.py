"""Evaluation of the pictures in test/, which no training and no choice uses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from jinja2 import TemplateNotFound

from base.errors import HeadstartError, NoLocksError, UsageError
from base.files import hash_file
from base.terminal import Console
from features.store import FeatureStore
from tests.commands import run_command
from tests.errors import raises
from tests.files import remove_locks
from tests.train_head.report.pages import read_page
from tests.train_head.synthetic import CLASSES, draw_features, list_paths, make_store
from tests.train_head.training import make_config
from train_head.config import ReportConfig, SolverName, TrainConfig
from train_head.data.split import split_examples
from train_head.evaluation.metrics import evaluate
from train_head.report.commands import shorten
from train_head.report.page import report_fitted_run, report_run
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.runs.record import METRICS_FILE, REPORT_FILE
from train_head.solvers.head import restore_head
from train_head.train import train_head

COUNTS = {"train/cats": 12, "train/dogs": 11, "validation/cats": 4, "validation/dogs": 4}
PATHS = list_paths(COUNTS | {"test/cats": 5, "test/dogs": 3})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    features = draw_features(PATHS).astype(np.float32)
    # One test picture of a cat has the features of a dog.
    odd = PATHS.index("test/cats/02.jpg")
    features[odd, ..., CLASSES.index("cats")] -= 1
    features[odd, ..., CLASSES.index("dogs")] += 1
    return make_store(tmp_path_factory.mktemp("final") / "store", PATHS, features=features)


@pytest.fixture(scope="module", params=[SolverName.REDUCED, SolverName.FULL])
def trained(
    store: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console, request: pytest.FixtureRequest
) -> TrainConfig:
    """Run, not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    config = make_config(store, folder / "run", epochs=20, solver=request.param, no_report=False)
    train_head(config, quiet)
    report_fitted_run(config, quiet)
    return config


@pytest.fixture
def config(trained: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A copy of the run."""
    return replace(trained, run=shutil.copytree(trained.run, tmp_path / "run"))


def test_split_with_validation_and_test_keeps_test_apart(store: FeatureStore) -> None:
    split = split_examples(store.examples, 0.2)
    assert sorted(example.path for example in split.test) == list_paths({"test/cats": 5, "test/dogs": 3})
    assert {example.split for example in split.train + split.validation} == {"train", "validation"}
    alone = [example for example in store.examples if example.split != "validation"]
    assert split_examples(alone, 0.2).test == split.test
    assert {example.split for example in split_examples(alone, 0.2).validation} == {"train"}


def test_report_with_test_evaluates_the_expanded_head_on_the_test_features(
    config: TrainConfig, store: FeatureStore, quiet: Console
) -> None:
    before = Run(config.run).read_metrics()
    report_run(ReportConfig(config.run, test=True), quiet)
    split = split_examples(store.examples, 0.2)
    head = restore_head(expand_head(Run(config.run), store, split.validation, quiet), store.feature_shape, 2, 0.3)
    second = head.predict_on_batch(store.read(split.test).astype(np.float32))[:, 0]
    targets = np.array([CLASSES.index(example.label) for example in split.test])
    expected = evaluate(targets, np.stack([1 - second, second], axis=1), CLASSES[:2], 0)
    found = Run(config.run).read_metrics()
    assert found["test"]["confusion"] == expected["confusion"] == [[4, 1], [0, 3]]
    assert found["test"]["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-5)
    assert found["test"]["accuracy"] == 7 / 8
    assert {**before, "test": found["test"]} == found


def test_report_command_with_test_adds_the_test_accuracy(config: TrainConfig, quiet: Console) -> None:
    assert read_page(config.run).data["test"] is None
    done = run_command("train_head.report.__main__", "--run", config.run, "--test", "--json")
    assert done.status == 0, done.err
    result = done.json
    assert result["test"]["accuracy"] == 7 / 8
    assert result["report"] == str(config.run / "report.html")
    page = read_page(config.run)
    assert page.data["test"] == result["test"]
    assert page.headings[0] == "Test accuracy"
    # The run is still recognised as completed, and its test accuracy is kept.
    assert train_head(config, quiet)["test"]["accuracy"] == 7 / 8


def test_report_with_test_without_test_pictures_is_a_usage_error(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    train_head(config, quiet)
    with raises(UsageError, where="--test"):
        report_run(ReportConfig(config.run, test=True), quiet)


def test_report_command_without_a_run_exits_with_1(tmp_path: Path) -> None:
    done = run_command("train_head.report.__main__", "--run", tmp_path / "none", "--json")
    assert (done.status, done.json["where"]) == (1, str(tmp_path / "none"))


@pytest.mark.parametrize("test", [False, True])
def test_report_on_a_file_system_without_locks_is_refused_before_any_work(
    config: TrainConfig, quiet: Console, monkeypatch: pytest.MonkeyPatch, test: bool
) -> None:
    remove_locks(monkeypatch)
    with (
        mock.patch("train_head.report.page.render_report") as render,
        mock.patch("train_head.report.page.evaluate_test") as evaluate_test,
        raises(NoLocksError, where=config.run),
    ):
        report_run(ReportConfig(config.run, test=test), quiet)
    assert (render.called, evaluate_test.called) == (False, False)


def test_report_with_test_that_fails_changes_no_file(
    config: TrainConfig, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in config.run.iterdir() if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("train_head.report.page.TEMPLATE", "gone")
        with pytest.raises(TemplateNotFound):
            report_run(ReportConfig(config.run, test=True), quiet)
    assert {path.name: path.read_bytes() for path in config.run.iterdir() if path.is_file()} == before
    report_run(ReportConfig(config.run, test=True), quiet)
    page = (config.run / REPORT_FILE).read_text()
    assert hash_file(config.run / METRICS_FILE) in page
    assert f"--run {shorten(config.run)} " in page


def test_report_with_test_interrupted_before_the_exchange_succeeds_afterwards(
    config: TrainConfig, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("base.replace._finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            report_run(ReportConfig(config.run, test=True), quiet)
    report_run(ReportConfig(config.run, test=True), quiet)
    assert "test" in Run(config.run).read_metrics()


def test_report_with_test_of_an_untrained_class_names_it(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", [*PATHS, "test/owls/00.jpg"])
    config = make_config(store, tmp_path / "run")
    train_head(config, quiet)
    with raises(HeadstartError, where="test/owls"):
        report_run(ReportConfig(config.run, test=True), quiet)
