"""The final number: pictures in test/, which nothing was trained on or chosen by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jinja2 import TemplateNotFound

from base.errors import HeadstartError
from base.files import hash_file
from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.report.pages import read_page
from tests.train_head.synthetic import CLASSES, draw_features, list_paths, make_store
from tests.train_head.training import ROOT, make_config
from train_head.config import ReportConfig, SolverName, TrainConfig
from train_head.data.split import split_examples
from train_head.evaluation.metrics import evaluate
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
    # A cat that looks like a dog, only where the final number is.
    odd = PATHS.index("test/cats/02.jpg")
    features[odd, ..., CLASSES.index("cats")] -= 1
    features[odd, ..., CLASSES.index("dogs")] += 1
    return make_store(tmp_path_factory.mktemp("final") / "store", PATHS, features=features)


@pytest.fixture(params=[SolverName.REDUCED, SolverName.FULL])
def config(store: FeatureStore, tmp_path: Path, quiet: Console, request: pytest.FixtureRequest) -> TrainConfig:
    config = make_config(store, tmp_path / "run", epochs=20, solver=request.param, no_report=False)
    train_head(config, quiet)
    return config


def run_report(run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train_head.report", "--run", str(run), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_split_with_validation_and_test_keeps_test_apart(store: FeatureStore) -> None:
    split = split_examples(store.examples, 0.2)
    assert sorted(example.path for example in split.test) == list_paths({"test/cats": 5, "test/dogs": 3})
    assert {example.split for example in split.train + split.validation} == {"train", "validation"}
    alone = [example for example in store.examples if example.split != "validation"]
    assert split_examples(alone, 0.2).test == split.test
    assert {example.split for example in split_examples(alone, 0.2).validation} == {"train"}


def test_report_with_test_is_what_the_whole_head_says_of_the_test_features(
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


def test_report_command_with_test_shows_the_final_number_and_without_it_none(
    config: TrainConfig, quiet: Console
) -> None:
    report_fitted_run(config, quiet)
    assert "The final number" not in read_page(config.run).text
    done = run_report(config.run, "--test", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["test"]["accuracy"] == 7 / 8
    assert "test accuracy" in done.stderr
    assert said["report"] == str(config.run / "report.html")
    page = read_page(config.run)
    assert "87.5%accuracy on 8 test pictures" in page.text
    # The very run is still known for itself, and its final number kept.
    assert train_head(config, quiet)["test"]["accuracy"] == 7 / 8


def test_report_command_with_test_where_there_is_none_ends_with_2(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    train_head(config, quiet)
    done = run_report(config.run, "--test")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: --test: expected pictures in test/ beside validation/, got none in {two_classes.path}. "
        "Add some, and extract again.\n"
    )


def test_report_command_without_a_run_ends_with_1_and_says_what_to_do(tmp_path: Path) -> None:
    done = run_report(tmp_path / "none")
    assert done.returncode == 1
    assert "expected a run, got no readable run.json" in done.stderr


def test_report_with_test_makes_metrics_and_report_appear_together(
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
    assert f"--run {config.run.name}</pre>" in page


def test_report_with_test_interrupted_before_the_exchange_succeeds_again(
    config: TrainConfig, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("base.replace._settle", interrupt)
        with pytest.raises(KeyboardInterrupt):
            report_run(ReportConfig(config.run, test=True), quiet)
    report_run(ReportConfig(config.run, test=True), quiet)
    assert "test" in Run(config.run).read_metrics()


def test_report_with_test_with_a_class_that_was_not_trained_on_names_it(tmp_path: Path, quiet: Console) -> None:
    store = make_store(tmp_path / "store", [*PATHS, "test/owls/00.jpg"])
    config = make_config(store, tmp_path / "run")
    train_head(config, quiet)
    with pytest.raises(HeadstartError, match="class 'owls' in test/: expected one that was trained on"):
        report_run(ReportConfig(config.run, test=True), quiet)
