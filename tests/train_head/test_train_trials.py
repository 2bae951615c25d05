"""Repeats and folds of a training: the accuracy of each, and the run that is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest

from base.errors import UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.files import read_files
from tests.train_head.synthetic import CLASSES, list_paths, make_store
from tests.train_head.training import make_config, run_command
from train_head.data.folds import split_into_folds
from train_head.data.split import split_examples
from train_head.evaluation.uncertainty import compute_interval
from train_head.runs.read import Run
from train_head.solvers import Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.reduced import fit_reduced
from train_head.train import train_head


@pytest.fixture(scope="module")
def repeated(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Run of three repeats and three folds; not to be changed."""
    run = tmp_path_factory.mktemp("repeated") / "run"
    train_head(make_config(noisy, run, repeats=3, folds=3), quiet)
    return run


def test_train_with_repeats_records_accuracy_of_each_seed(
    repeated: Path, noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    summary = Run(repeated).read_metrics()["repeats"]
    singles = [
        train_head(make_config(noisy, tmp_path / str(seed), seed=seed), quiet)["val_accuracy"] for seed in (3, 4, 5)
    ]
    assert len(set(singles)) > 1
    assert summary["val_accuracies"] == singles
    assert summary["mean"] == pytest.approx(mean(singles))
    assert summary["std"] == pytest.approx(stdev(singles))
    assert Run(repeated).read_metrics()["val_accuracy"] == singles[0]


def test_train_with_repeats_and_folds_keeps_run_of_first_seed(
    repeated: Path, noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    single = make_config(noisy, tmp_path / "run")
    metrics = train_head(single, quiet)
    mine, theirs = read_files(repeated), read_files(single.run)
    assert sorted(mine) == sorted(theirs)
    for name in ("head.npz", "predictions.csv", "examples.csv", "validation_logits.npy"):
        assert mine[name] == theirs[name], name
    others = {name: value for name, value in Run(repeated).read_metrics().items() if name not in ("repeats", "folds")}
    assert others | {"seconds": 0} == metrics | {"seconds": 0}
    assert [path.name for path in repeated.parent.iterdir()] == ["run"]


def test_train_with_folds_records_accuracy_of_each_fold(
    repeated: Path, noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    summary = Run(repeated).read_metrics()["folds"]
    expected = []
    for seed in (3, 4, 5):
        for number, fold in enumerate(split_into_folds(split_examples(noisy.examples, 0.2), 3)):
            problem = Problem(noisy, fold, make_config(noisy, tmp_path / "run", seed=seed))
            fit = fit_reduced(problem, Checkpoint(tmp_path / f"{seed}-{number}.npz", "key"), quiet)
            labels = [CLASSES[place] for place in fit.validation_probabilities.argmax(axis=1)]
            expected.append(mean(label == e.label for label, e in zip(labels, fold.validation, strict=True)))
    assert len(set(expected)) > 3
    assert summary["val_accuracies"] == pytest.approx(expected)
    assert summary["mean"] == pytest.approx(mean(expected))
    assert summary["std"] == pytest.approx(stdev(expected))


@pytest.mark.unit
def test_train_with_more_folds_than_pictures_of_a_class_fails_before_any_work(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    with raises(UsageError, where="--folds", got=16):
        train_head(make_config(two_classes, tmp_path / "run", folds=16), quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_train_with_rank_above_size_of_fold_fails_before_any_work(tmp_path: Path, quiet: Console) -> None:
    paths = list_paths({"train/cats": 5, "train/dogs": 5, "validation/cats": 1, "validation/dogs": 1})
    store = make_store(tmp_path / "store", paths)
    before = sorted(tmp_path.iterdir())
    with raises(UsageError, where="--rank", got=10) as caught:
        train_head(make_config(store, tmp_path / "run", rank=10, folds=2), quiet)
    assert "6" in caught.value.expected
    assert sorted(tmp_path.iterdir()) == before


def test_train_command_shows_repeats_and_folds(two_classes: FeatureStore, tmp_path: Path) -> None:
    done = run_command(two_classes, tmp_path / "run", "--repeats", "2", "--folds", "2", "--no-report", "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics == json.loads((tmp_path / "run/metrics.json").read_text())
    for kind, count in (("repeats", 2), ("folds", 4)):
        summary = metrics[kind]
        assert len(summary["val_accuracies"]) == count
        assert summary["mean"] == pytest.approx(mean(summary["val_accuracies"]))
        assert summary["std"] == pytest.approx(stdev(summary["val_accuracies"]))
        (row,) = (line for line in done.stderr.splitlines() if re.search(rf"{count} {kind} +│", line))
        assert f"{summary['mean']:.4f} ± {summary['std']:.4f}" in row
    # Folds partition all 31 pictures. The kept head and the repeats are trained on 23.
    assert metrics["folds"]["num_train"] == [15, 16] * 2
    assert metrics["repeats"]["num_train"] == [23] * 2


def test_train_logs_first_accuracy_before_fitting_the_other_trials(
    two_classes: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train_head(make_config(two_classes, tmp_path / "run", repeats=2), Console())
    lines = [line for line in capsys.readouterr().err.splitlines() if "6/6" in line or "accuracy" in line]
    accuracies = metrics["repeats"]["val_accuracies"]
    # Progress and accuracy of each trial alternate.
    assert len(lines) == 4
    for place, accuracy in ((1, accuracies[0]), (3, accuracies[1])):
        assert "6/6" in lines[place - 1]
        assert f"{accuracy:.4f}" in lines[place]
    assert "repeat 1" in lines[3]


def test_train_with_patience_widens_intervals_to_account_for_the_choice_of_epoch(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(noisy, tmp_path / "run", patience=1, epochs=3, no_report=False)
    metrics = train_head(config, quiet)
    assert metrics["selection"] == {"num_heads": 1, "num_epochs": 3, "metric": "val_loss", "num_possible": 0}
    right = round(metrics["val_accuracy"] * metrics["num_validation"])
    expected = list(compute_interval(right, metrics["num_validation"], 3))
    assert metrics["val_accuracy_interval"] == metrics["evaluation"]["accuracy_interval"] == expected
