"""Trainings with the reduced solver: result, metrics, imports, invalid options and existing runs."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from base.terminal import Console
from features.store import Example, FeatureStore
from tests.errors import raises
from tests.files import read_files
from tests.train_head.training import NEW_OPTIONS, make_config, remove_options, run_command
from train_head.config import OptimizerName, SolverName, TrainConfig
from train_head.data.split import split_examples
from train_head.prepare import prepare_training
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.runs.tables import list_run_examples
from train_head.train import train_head


def predict(run: Run, store: FeatureStore, examples: list[Example], quiet: Console) -> NDArray[np.float64]:
    """Compute the (n, classes) probabilities of a run's head on all inputs, in plain NumPy."""
    head = expand_head(run, store, split_examples(store.examples, 0.2).validation, quiet)
    kernel = head.input_kernel.astype(np.float64)
    inputs = store.read(examples).reshape(len(examples), -1).astype(np.float64)
    logits = np.maximum(inputs @ kernel + head.input_bias, 0) @ head.output_kernel + head.output_bias
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    exponentials = np.exp(logits)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["two_classes", "three_classes"])
def test_train_reduced_learns_and_writes_run(
    request: pytest.FixtureRequest, tmp_path: Path, quiet: Console, name: str
) -> None:
    store: FeatureStore = request.getfixturevalue(name)
    config = make_config(store, tmp_path / "run", epochs=30, learning_rate=0.02, rank=4, units=16)
    metrics = train_head(config, quiet)
    assert metrics["val_accuracy"] == 1.0
    assert (metrics["solver"], metrics["epochs"], metrics["kept_epoch"]) == ("reduced", 30, 30)
    assert "repeats" not in metrics
    assert "folds" not in metrics
    assert metrics["diverged"] is None
    run = Run(config.run)
    assert (run.record.solver, run.record.rank) == ("reduced", 4)
    assert run.read_head().input_kernel.shape == (4, 16)
    assert run.read_examples() == list_run_examples(split_examples(store.examples, 0.2))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_metrics_are_of_the_kept_head_without_dropout(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(noisy, tmp_path / "run", patience=3, epochs=60, learning_rate=0.02, dropout=0.5)
    metrics = train_head(config, quiet)
    run, split = Run(config.run), split_examples(noisy.examples, 0.2)
    history = run.read_history()
    assert len(history) == metrics["epochs"] == metrics["kept_epoch"] + 3
    for prefix, examples in (("train", split.train), ("val", split.validation)):
        probabilities = predict(run, noisy, examples, quiet)
        targets = np.array([split.classes.index(example.label) for example in examples])
        losses = -np.log(probabilities[np.arange(len(targets)), targets])
        assert metrics[f"{prefix}_accuracy"] == pytest.approx(np.mean(probabilities.argmax(axis=1) == targets)), prefix
        assert metrics[f"{prefix}_loss"] == pytest.approx(losses.mean(), rel=1e-4), prefix
    assert metrics["val_loss"] == min(row.val_loss for row in history)
    # The training loss in the history is measured with dropout.
    assert metrics["train_loss"] != pytest.approx(history[metrics["kept_epoch"] - 1].loss, rel=1e-3)


def test_train_command_without_report_imports_nothing_heavy(two_classes: FeatureStore, tmp_path: Path) -> None:
    for _ in ("fitted", "unchanged"):
        done = run_command(two_classes, tmp_path / "run", "--no-report", "-v")
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "imported:"
        assert "warning" not in done.stderr
    assert not (tmp_path / "run/curves.png").exists()


def test_train_command_with_wrong_usage_exits_2_and_imports_nothing_heavy(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    done = run_command(two_classes, tmp_path / "run", "--folds", "1", "--json")
    error = json.loads(done.stdout)
    assert (done.returncode, error["type"], error["where"], error["got"]) == (2, "UsageError", "--folds", "1")
    assert done.stderr.splitlines()[-1] == "imported:"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"distribute": "ray", "solver": SolverName.FULL}, {"distribute": "nowhere"}])
@pytest.mark.unit
def test_train_with_invalid_distribute_fails_before_any_work(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, options: dict[str, Any]
) -> None:
    with raises(UsageError, where="--distribute"):
        train_head(make_config(two_classes, tmp_path / "run", **options), quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "where", "limit"),
    [
        # 23 different training rows of 12 inputs.
        ({"rank": 24}, "--rank", "23"),
        ({"rank": 13}, "--rank", "12"),
        ({"rank": 4, "solver": SolverName.FULL}, "--rank", "reduced"),
        ({"momentum": 0.9}, "--momentum", "0"),
        ({"learning_rate": 0.0}, "--learning-rate", "0"),
        ({"learning_rate": -1.0}, "--learning-rate", "0"),
        ({"learning_rate": math.inf}, "--learning-rate", "0"),
        ({"learning_rate": math.nan}, "--learning-rate", "0"),
        ({"fine_tune_learning_rate": 0.0}, "--fine-tune-learning-rate", "0"),
    ],
)
@pytest.mark.unit
def test_train_with_invalid_option_fails_before_any_work(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, options: dict[str, Any], where: str, limit: str
) -> None:
    (value, *_) = options.values()
    with raises(UsageError, where=where) as caught:
        train_head(make_config(two_classes, tmp_path / "run", **options), quiet)
    assert limit in caught.value.expected
    assert f"{value:g}" in caught.value.got
    assert list(tmp_path.iterdir()) == []


def test_train_reduced_again_changes_nothing_and_reads_no_features(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(two_classes, tmp_path / "run", repeats=2, folds=2)
    metrics = train_head(config, quiet)
    before = {path: path.stat().st_mtime_ns for path in config.run.iterdir()}
    monkeypatch.delattr("train_head.solvers.reduced.reduce_features")
    assert train_head(config, quiet) == metrics
    assert {path: path.stat().st_mtime_ns for path in config.run.iterdir()} == before


@pytest.fixture(scope="module")
def older_run(two_classes: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> TrainConfig:
    """Options of a run whose run.json lacks newer options; not to be changed."""
    config = make_config(two_classes, tmp_path_factory.mktemp("older") / "run", epochs=1)
    train_head(config, quiet)
    remove_options(config.run, NEW_OPTIONS)
    return config


@pytest.mark.unit
def test_train_again_on_run_without_newer_options_changes_nothing(older_run: TrainConfig, quiet: Console) -> None:
    before = read_files(older_run.run)
    assert train_head(older_run, quiet) == Run(older_run.run).read_metrics()
    assert read_files(older_run.run) == before


@pytest.mark.parametrize(
    ("change", "name", "default"),
    [
        ({"rank": 5}, "rank", "unset"),
        ({"l2": 0.1}, "l2", "0.0"),
        ({"patience": 2}, "patience", "0"),
        ({"repeats": 2}, "repeats", "1"),
        ({"folds": 2}, "folds", "0"),
        ({"momentum": 0.5, "optimizer": OptimizerName.SGD}, "momentum", "0.0"),
    ],
)
@pytest.mark.unit
def test_list_differences_of_older_run_uses_defaults_of_new_options(
    older_run: TrainConfig, change: dict[str, Any], name: str, default: str
) -> None:
    training = prepare_training(replace(older_run, **change))
    assert f"{name} {default} instead of {change[name]}" in training.list_differences()
    assert prepare_training(older_run).list_differences() == []


@pytest.mark.unit
def test_train_with_unwritable_derived_folder_warns_and_writes_run(
    own_store: Path, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(own_store / "derived", ignore_errors=True)
    (own_store / "derived").write_text("a file in the way")
    config = make_config(own_store, tmp_path / "run")
    metrics = train_head(config, quiet)
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(own_store / "derived") in warning
    assert Run(config.run).read_metrics() == metrics
