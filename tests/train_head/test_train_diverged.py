"""A training whose loss is no number: what is kept, and that it is said each time."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from base.errors import HeadstartError
from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.fits import assert_same_weights
from tests.train_head.training import UNSTABLE, make_config, run_command
from train_head.config import OptimizerName
from train_head.runs.read import Run
from train_head.solvers.network import Batch, HeadTrainer
from train_head.train import train_head


def test_train_command_that_diverges_at_once_exits_1_with_epoch_and_rate_and_leaves_no_run(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    done = run_command(two_classes, tmp_path / "run", "--learning-rate", "1e30", "--optimizer", "sgd", "--json")
    assert done.returncode == 1
    message = json.loads(done.stdout)["error"]
    assert re.match(r"epoch 1: .* at learning rate 1e\+30\.", message)
    assert f"error: {message}\n" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_train_with_repeats_that_diverges_at_once_leaves_nothing_and_warns_of_nothing_the_next_time(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        two_classes, tmp_path / "run", learning_rate=1e30, optimizer=OptimizerName.SGD, repeats=2, epochs=2
    )
    for _ in range(2):
        with pytest.raises(HeadstartError, match=r"epoch 1: .*at learning rate 1e\+30\."):
            train_head(config, quiet)
        assert capsys.readouterr().err == ""
    assert not config.run.exists()


def test_train_that_diverges_later_keeps_the_last_good_head_and_raises_each_time(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run", **UNSTABLE)
    with pytest.raises(HeadstartError) as raised:
        train_head(config, quiet)
    run = Run(config.run)
    metrics, history = run.read_metrics(), run.read_history()
    bad = len(history)
    assert 2 < bad < 40
    assert [row.is_finite for row in history] == [True] * (bad - 1) + [False]
    assert (metrics["epochs"], metrics["kept_epoch"]) == (bad, bad - 1)
    last = f"{history[-1].loss:.4g} (validation: {history[-1].val_loss:.4g})"
    assert metrics["diverged"] == {"trial": "repeat 0", "epoch": bad, "losses": last, "kept_epoch": bad - 1}
    assert str(raised.value) == (
        f"{config.run}, repeat 0, epoch {bad}: expected a finite loss, got {last} at learning rate 0.3. "
        f"The run keeps the head of repeat 0, epoch {bad - 1}. Try a smaller --learning-rate."
    )
    assert math.isfinite(metrics["val_loss"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    before = {path: path.stat().st_mtime_ns for path in config.run.iterdir()}
    with pytest.raises(HeadstartError) as again:
        train_head(config, quiet)
    assert str(again.value) == str(raised.value)
    assert {path: path.stat().st_mtime_ns for path in config.run.iterdir()} == before
    good = make_config(two_classes, tmp_path / "good", **UNSTABLE | {"epochs": bad - 1})
    assert train_head(good, quiet)["diverged"] is None
    assert_same_weights(run.read_head(), Run(good.run).read_head())


def test_train_command_that_diverges_later_exits_1_each_time_and_the_run_is_there(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    options = ["--optimizer", "sgd", "--learning-rate", "0.3", "--l2", "5", "--epochs", "60", "--no-report", "--json"]
    first, again = (run_command(two_classes, tmp_path / "run", *options) for _ in range(2))
    assert (first.returncode, again.returncode) == (1, 1)
    assert "The run keeps the head of repeat 0, epoch " in json.loads(first.stdout)["error"]
    assert first.stdout == again.stdout
    assert (tmp_path / "run/head.npz").is_file()


def test_train_whose_second_repeat_diverges_keeps_the_first_and_names_the_second(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = make_config(two_classes, tmp_path / "good")
    train_head(good, quiet)
    train_on_batch = HeadTrainer.train_on_batch
    # Three steps an epoch: 18 of the first repeat, and 7 of the second, which fails at its third epoch.
    taken = []

    def train_on_batch_without_number(stepper: HeadTrainer, batch: Batch) -> tuple[float, int]:
        taken.append(stepper.num_steps)
        loss, num_right = train_on_batch(stepper, batch)
        return (loss if len(taken) < 25 else math.nan), num_right

    monkeypatch.setattr(HeadTrainer, "train_on_batch", train_on_batch_without_number)
    config = make_config(two_classes, tmp_path / "run", repeats=2)
    with pytest.raises(
        HeadstartError,
        match=r"run, repeat 1, epoch 3: expected a finite loss, got nan \(validation: \d.*\) at learning rate 0\.01\. ",
    ):
        train_head(config, quiet)
    metrics = Run(config.run).read_metrics()
    assert (metrics["epochs"], metrics["kept_epoch"]) == (6, 6)
    assert [metrics["diverged"][name] for name in ("trial", "epoch", "kept_epoch")] == ["repeat 1", 3, 6]
    assert metrics["repeats"]["val_accuracies"] == [metrics["val_accuracy"]]
    assert_same_weights(Run(config.run).read_head(), Run(good.run).read_head())


def test_train_whose_second_repeat_diverges_at_once_keeps_the_first_and_names_the_second(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_on_batch = HeadTrainer.train_on_batch
    taken = []

    def train_on_batch_without_number(stepper: HeadTrainer, batch: Batch) -> tuple[float, int]:
        taken.append(stepper.num_steps)
        loss, num_right = train_on_batch(stepper, batch)
        return (loss if len(taken) <= 18 else math.nan), num_right

    monkeypatch.setattr(HeadTrainer, "train_on_batch", train_on_batch_without_number)
    config = make_config(two_classes, tmp_path / "run", repeats=3)
    with pytest.raises(HeadstartError, match=r"run, repeat 1, epoch 1: .* keeps the head of repeat 0, epoch 6\."):
        train_head(config, quiet)
    assert len(taken) == 18 + 3
    assert Run(config.run).read_metrics()["repeats"]["std"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
