"""Trainings with the solver ridge: metrics, ignored options, folds, expansion, report and invalid combinations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import UsageError
from base.terminal import Console
from features.options import Pool
from features.store import FeatureStore
from tests import commands
from tests.errors import raises
from tests.train_head.training import make_config, run_command
from train_head.compare import CompareConfig, plan_trainings
from train_head.config import SolverName
from train_head.data.split import split_examples
from train_head.evaluation.uncertainty import compute_interval
from train_head.runs.read import Run
from train_head.train import train_head

LINEAR = ("--units", 0, "--solver", "reduced", "--epochs", 1, "--no-report")


@pytest.mark.parametrize("pool", list(Pool)[:2])
@pytest.mark.unit
def test_train_ridge_writes_a_run_that_predicts_from_stored_features(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, pool: Pool
) -> None:
    config = make_config(noisy, tmp_path / "run", solver=SolverName.RIDGE, pool=pool)
    metrics = train_head(config, quiet)
    run = Run(config.run)
    assert (run.record.solver, run.record.temperature) == ("ridge", 1.0)
    assert (metrics["epochs"], metrics["kept_epoch"], len(run.history)) == (1, 1, 1)
    found = metrics["ridge"]
    num_right = round(found["leave_one_out_accuracy"] * 36)
    assert 0 < num_right < 36
    assert found["leave_one_out_interval"] == list(compute_interval(num_right, 36))
    assert found["penalty"] > 0
    store, validation = run.open_store(), split_examples(noisy.examples, 0.2).validation
    _, probabilities = run.read_probabilities()
    np.testing.assert_allclose(run.predict_proba(store.read(validation)), probabilities, atol=1e-5)
    assert not (config.run / "curves.png").exists()


def test_train_ridge_with_ignored_options_warns_and_gives_the_same_run(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    first = run_command(two_classes, tmp_path / "run", "--solver", "ridge", "--no-report")
    assert first.returncode == 0, first.stderr
    assert first.stderr.splitlines()[-1] == "imported:"
    (warning,) = [line for line in first.stderr.splitlines() if line.startswith("warning:")]
    assert all(name in warning for name in ("epochs", "units", "batch size"))
    head = Run(tmp_path / "run").record.head
    again = run_command(two_classes, tmp_path / "run", "--solver", "ridge", "--patience", "2", "--no-report")
    assert again.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert Run(tmp_path / "run").record.head == head
    assert Run(tmp_path / "run").options["units"] == 0


@pytest.mark.unit
def test_train_ridge_with_folds_and_repeats_summarizes_them(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    metrics = train_head(make_config(noisy, tmp_path / "run", solver=SolverName.RIDGE, folds=3, repeats=2), quiet)
    assert metrics["repeats"]["std"] == 0
    assert len(metrics["folds"]["val_accuracies"]) == 6
    assert metrics["folds"]["val_accuracies"][:3] == metrics["folds"]["val_accuracies"][3:]


@pytest.mark.parametrize(
    ("options", "where"), [({"unfreeze_from": "mixed7"}, "--unfreeze-from"), ({"rank": 13}, "--rank")]
)
@pytest.mark.unit
def test_train_ridge_with_invalid_option_fails_before_any_work(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, options: dict[str, Any], where: str
) -> None:
    with raises(UsageError, where=where):
        train_head(make_config(two_classes, tmp_path / "run", solver=SolverName.RIDGE, **options), quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_compare_without_dropout_to_compare_is_refused(two_classes: FeatureStore, tmp_path: Path) -> None:
    with raises(UsageError, where="--solver"):
        plan_trainings(CompareConfig(two_classes.path, tmp_path / "runs", solver=SolverName.RIDGE))
    with raises(UsageError, where="--units"):
        plan_trainings(CompareConfig(two_classes.path, tmp_path / "runs", units=0))


@pytest.mark.unit
def test_train_linear_head_with_dropout_warns_and_gives_the_same_run(two_classes: FeatureStore, tmp_path: Path) -> None:
    results = [
        commands.run_command("train_head.__main__", "--store", two_classes.path, "--run", tmp_path / "run", *options)
        for options in (LINEAR, (*LINEAR, "--dropout", 0.5))
    ]
    assert [len(result.warnings) for result in results] == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
