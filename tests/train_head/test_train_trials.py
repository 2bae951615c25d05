"""Repeats and folds of a training: what is told of each, and which is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest

from base.errors import UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.files import read_files
from tests.train_head.synthetic import CLASSES, list_paths, make_store
from tests.train_head.training import make_config, run_command
from train_head.data.split import split_examples, split_into_folds
from train_head.evaluation.uncertainty import compute_interval
from train_head.runs.read import Run
from train_head.solvers import Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.reduced import fit_reduced
from train_head.train import train_head


@pytest.fixture(scope="module")
def repeated(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """A run of three repeats and three folds, not to be changed."""
    run = tmp_path_factory.mktemp("repeated") / "run"
    train_head(make_config(noisy, run, repeats=3, folds=3), quiet)
    return run


def test_train_with_repeats_tells_the_accuracy_of_each_seed_with_mean_and_deviation(
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


def test_train_with_repeats_and_folds_keeps_the_run_of_the_first_seed(
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


def test_train_with_folds_tells_the_accuracy_of_each_fold_of_each_repeat(
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


def test_train_with_more_folds_than_pictures_of_a_class_is_wrong_usage_before_any_work(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(UsageError, match=r"--folds: expected at most 15, .* of class 'dogs', got 16"):
        train_head(make_config(two_classes, tmp_path / "run", folds=16), quiet)
    assert list(tmp_path.iterdir()) == []


def test_train_with_a_rank_above_a_folds_pictures_is_wrong_usage_before_any_work(
    tmp_path: Path, quiet: Console
) -> None:
    paths = list_paths({"train/cats": 5, "train/dogs": 5, "validation/cats": 1, "validation/dogs": 1})
    store = make_store(tmp_path / "store", paths)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"--rank: expected at most 6, "):
        train_head(make_config(store, tmp_path / "run", rank=10, folds=2), quiet)
    assert sorted(tmp_path.iterdir()) == before


def test_train_command_says_repeats_and_folds_in_json_and_in_its_table(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    done = run_command(two_classes, tmp_path / "run", "--repeats", "2", "--folds", "2", "--no-report", "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics == json.loads((tmp_path / "run/metrics.json").read_text())
    for kind, count in (("repeats", 2), ("folds", 4)):
        summary = metrics[kind]
        assert len(summary["val_accuracies"]) == count
        assert summary["mean"] == pytest.approx(mean(summary["val_accuracies"]))
        assert summary["std"] == pytest.approx(stdev(summary["val_accuracies"]))
        assert re.search(rf"{count} {kind} +│ {summary['mean']:.4f} ± {summary['std']:.4f} \(mean and", done.stderr)
    names = ["repeat 1", *(f"fold {fold} of repeat {number}" for number in (0, 1) for fold in (0, 1))]
    accuracies = metrics["repeats"]["val_accuracies"][1:] + metrics["folds"]["val_accuracies"]
    # Folds share out 31 pictures; the kept head and the repeat have 23.
    assert metrics["folds"]["num_train"] == [15, 16] * 2
    sizes = metrics["repeats"]["num_train"][1:] + metrics["folds"]["num_train"]
    lines = [
        f"{name}: validation accuracy {accuracy:.4f}, trained on {size} pictures"
        for name, accuracy, size in zip(names, accuracies, sizes, strict=True)
    ]
    assert [line for line in done.stderr.splitlines() if re.match("repeat|fold", line)] == lines


def test_train_says_the_accuracy_before_it_fits_the_others(
    two_classes: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = train_head(make_config(two_classes, tmp_path / "run", repeats=2), Console())
    lines = capsys.readouterr().err.splitlines()
    told = [number for number, line in enumerate(lines) if "validation accuracy" in line]
    assert len(told) == 2
    assert re.fullmatch(rf"validation accuracy {metrics['val_accuracy']:.4f} after \d+\.\d s", lines[told[0]])
    assert lines[told[1]].startswith("repeat 1: validation accuracy ")
    assert [number for number, line in enumerate(lines) if line.startswith("train: 6/6 epochs")] == [
        told[0] - 1,
        told[1] - 1,
    ]


def test_train_with_patience_says_that_the_epoch_was_chosen_by_the_pictures_that_judge_it(
    noisy: FeatureStore, tmp_path: Path
) -> None:
    done = run_command(noisy, tmp_path / "run", "--patience", "1", "--folds", "2", "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["selection"] == {"num_heads": 1, "num_epochs": 3, "metric": "val_loss", "num_possible": 0}
    right = round(metrics["val_accuracy"] * metrics["num_validation"])
    expected = list(compute_interval(right, metrics["num_validation"], 3))
    assert metrics["val_accuracy_interval"] == metrics["evaluation"]["accuracy_interval"] == expected
    said = re.sub(r"[\s│]+", " ", done.stderr)
    assert "for the best of up to 3 epochs, chosen by these pictures" in said
    assert "each kept its best epoch by the pictures that it is evaluated on" in said
    assert "This is the best of up to 3 epochs" in (tmp_path / "run/report.html").read_text()
