"""Stage two by the reduced solver as a whole: what it learns and says, without TensorFlow, and wrong usage."""

from __future__ import annotations

import json
import re
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
from train_head.config import OptimizerName, SolverName
from train_head.data.split import split_examples
from train_head.prepare import prepare_training
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.runs.tables import list_run_examples
from train_head.train import train_head


def say(run: Run, store: FeatureStore, examples: list[Example], quiet: Console) -> NDArray[np.float64]:
    """What the run's head says of examples, (n, classes), from all inputs and in plain NumPy."""
    head = expand_head(run, store, split_examples(store.examples, 0.2).validation, quiet)
    kernel = head.hidden_kernel.astype(np.float64)
    inputs = store.read(examples).reshape(len(examples), -1).astype(np.float64)
    logits = np.maximum(inputs @ kernel + head.hidden_bias, 0) @ head.output_kernel + head.output_bias
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    raised = np.exp(logits)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["two_classes", "three_classes"])
def test_train_reduced_learns_and_keeps_a_run_of_its_solver(
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
    assert run.read_head().hidden_kernel.shape == (4, 16)
    assert run.read_examples() == list_run_examples(split_examples(store.examples, 0.2))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_metrics_of_training_are_those_of_the_kept_head_with_nothing_dropped(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(noisy, tmp_path / "run", patience=3, epochs=60, learning_rate=0.02, dropout=0.5)
    metrics = train_head(config, quiet)
    run, split = Run(config.run), split_examples(noisy.examples, 0.2)
    history = run.read_history()
    assert len(history) == metrics["epochs"] == metrics["kept_epoch"] + 3
    for side, examples in (("train", split.train), ("val", split.validation)):
        probabilities = say(run, noisy, examples, quiet)
        targets = np.array([split.classes.index(example.label) for example in examples])
        losses = -np.log(probabilities[np.arange(len(targets)), targets])
        assert metrics[f"{side}_accuracy"] == pytest.approx(np.mean(probabilities.argmax(axis=1) == targets)), side
        assert metrics[f"{side}_loss"] == pytest.approx(losses.mean(), rel=1e-4), side
    assert metrics["val_loss"] == min(row.val_loss for row in history)
    # The history's training values are of dropout, and so are others.
    assert metrics["train_loss"] != pytest.approx(history[metrics["kept_epoch"] - 1].loss, rel=1e-3)


def test_train_command_without_report_imports_nothing_heavy_and_says_the_accuracy(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    done = run_command(two_classes, tmp_path / "run", "--no-report", "-v")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "imported:"
    accuracy = json.loads((tmp_path / "run/metrics.json").read_text())["val_accuracy"]
    assert re.search(rf"^validation accuracy {accuracy:.4f} after \d+\.\d s$", done.stderr, re.MULTILINE)
    assert "warning" not in done.stderr
    assert not (tmp_path / "run/curves.png").exists()
    again = run_command(two_classes, tmp_path / "run", "--no-report")
    assert (again.returncode, again.stderr.splitlines()[-1]) == (0, "imported:")
    assert "holds this very run already; nothing to do" in again.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--rank", "0"], "Invalid value for '--rank': ", id="rank 0"),
        pytest.param(["--folds", "1"], "error: --folds: expected 0, or at least 2, got 1. ", id="one fold"),
        pytest.param(
            ["--momentum", "0.9"],
            "error: --momentum: expected --optimizer sgd, got --optimizer rmsprop. ",
            id="momentum without sgd",
        ),
        pytest.param(
            ["--rank", "24"],
            "error: --rank: expected at most 23, the number of distinct training rows, got 24. ",
            id="rank above n",
        ),
    ],
)
def test_train_command_of_wrong_usage_exits_2_and_leaves_nothing(
    two_classes: FeatureStore, tmp_path: Path, options: list[str], message: str
) -> None:
    done = run_command(two_classes, tmp_path / "run", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in re.sub(r"\s+", " ", re.sub("[│╭╮╰╯─]", " ", done.stderr))
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "imported:"
    assert list(tmp_path.iterdir()) == []


def test_train_with_a_rank_above_all_inputs_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    with raises(UsageError, where="--rank", got="13") as caught:
        train_head(make_config(two_classes, tmp_path / "run", rank=13), quiet)
    assert "12" in caught.value.expected
    assert list(tmp_path.iterdir()) == []


def test_train_with_a_rank_for_the_full_solver_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(UsageError, match=r"^--rank: expected --solver reduced or auto, got --solver full\. "):
        train_head(make_config(two_classes, tmp_path / "run", rank=4, solver=SolverName.FULL), quiet)
    assert list(tmp_path.iterdir()) == []


def test_train_reduced_again_does_nothing_and_reads_no_features(
    two_classes: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(two_classes, tmp_path / "run", repeats=2, folds=2)
    metrics = train_head(config, Console())
    before = {path: path.stat().st_mtime_ns for path in config.run.iterdir()}
    capsys.readouterr()
    monkeypatch.delattr("train_head.solvers.reduced.reduce_features")
    assert train_head(config, Console()) == metrics
    assert {path: path.stat().st_mtime_ns for path in config.run.iterdir()} == before
    assert f"{config.run}: holds this very run already; nothing to do\n" in capsys.readouterr().err


def test_train_on_a_run_that_is_older_than_some_options_takes_it_for_one_with_their_defaults(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    metrics = train_head(config, quiet)
    remove_options(config.run, NEW_OPTIONS)
    before = read_files(config.run)
    assert train_head(config, quiet) == metrics
    assert read_files(config.run) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 5}, "rank nothing instead of 5"),
        ({"l2": 0.1}, "l2 0.0 instead of 0.1"),
        ({"patience": 2}, "patience 0 instead of 2"),
        ({"repeats": 2}, "repeats 1 instead of 2"),
        ({"folds": 2}, "folds 0 instead of 2"),
        ({"momentum": 0.5, "optimizer": OptimizerName.SGD}, "momentum 0.0 instead of 0.5"),
    ],
)
def test_list_differences_of_a_run_that_is_older_than_an_option_takes_its_default(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, change: dict[str, Any], message: str
) -> None:
    config = make_config(two_classes, tmp_path / "run", epochs=1)
    train_head(config, quiet)
    remove_options(config.run, NEW_OPTIONS)
    asked = prepare_training(replace(config, **change))
    assert message in asked.list_differences()
    assert prepare_training(config).list_differences() == []


def test_train_with_a_full_disk_for_derived_files_warns_and_keeps_the_run(
    own_store: Path, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(own_store / "derived", ignore_errors=True)
    (own_store / "derived").write_text("a file in the way")
    config = make_config(own_store, tmp_path / "run")
    metrics = train_head(config, quiet)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {own_store / 'derived'}")
    assert "Traceback" not in said
    assert Run(config.run).read_metrics() == metrics
