"""Trainings whose loss becomes NaN or infinite: the kept head, and the error, which is raised each time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.fits import assert_same_weights
from tests.train_head.training import UNSTABLE, make_config, run_command
from train_head.config import OptimizerName
from train_head.runs.read import Run
from train_head.solvers.history import DivergedError, PartlyDivergedError
from train_head.solvers.network import Batch, HeadTrainer
from train_head.train import train_head


def diverge_after(monkeypatch: pytest.MonkeyPatch, num_steps: int) -> list[int]:
    """Make the loss NaN after this many training steps; return the list to which each step is added."""
    steps: list[int] = []
    train_on_batch = HeadTrainer.train_on_batch

    def train_and_diverge(trainer: HeadTrainer, batch: Batch) -> tuple[float, int]:
        steps.append(trainer.num_steps)
        loss, num_correct = train_on_batch(trainer, batch)
        return (loss if len(steps) <= num_steps else math.nan), num_correct

    monkeypatch.setattr(HeadTrainer, "train_on_batch", train_and_diverge)
    return steps


@pytest.mark.unit
def test_train_with_repeats_that_diverges_at_once_fails_each_time_and_leaves_nothing(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        two_classes, tmp_path / "run", learning_rate=1e30, optimizer=OptimizerName.SGD, repeats=2, epochs=2
    )
    for _ in range(2):
        with raises(DivergedError, where="epoch 1") as caught:
            train_head(config, quiet)
        assert "1e+30" in caught.value.got
        assert capsys.readouterr().err == ""
        assert list(tmp_path.iterdir()) == []


def test_train_that_diverges_later_keeps_last_finite_head_and_fails_each_time(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run", **UNSTABLE)
    with pytest.raises(PartlyDivergedError) as caught:
        train_head(config, quiet)
    run = Run(config.run)
    metrics, history = run.read_metrics(), run.read_history()
    bad = len(history)
    assert 2 < bad < 40
    assert [row.is_finite for row in history] == [True] * (bad - 1) + [False]
    assert (metrics["epochs"], metrics["kept_epoch"]) == (bad, bad - 1)
    last = history[-1].describe_losses()
    assert metrics["diverged"] == {"trial": "repeat 0", "epoch": bad, "losses": last, "kept_epoch": bad - 1}
    assert caught.value.where == f"{config.run}, repeat 0, epoch {bad}"
    assert last in caught.value.got
    assert "0.3" in caught.value.got
    assert f"epoch {bad - 1}" in caught.value.advice
    assert math.isfinite(metrics["val_loss"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    before = {path: path.stat().st_mtime_ns for path in config.run.iterdir()}
    with pytest.raises(PartlyDivergedError) as again:
        train_head(config, quiet)
    assert again.value.args == caught.value.args
    assert {path: path.stat().st_mtime_ns for path in config.run.iterdir()} == before
    good = make_config(two_classes, tmp_path / "good", **UNSTABLE | {"epochs": bad - 1})
    assert train_head(good, quiet)["diverged"] is None
    assert_same_weights(run.read_head(), Run(good.run).read_head())


def test_train_command_that_diverges_later_exits_1_each_time_and_writes_run(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    options = ["--optimizer", "sgd", "--learning-rate", "0.3", "--l2", "5", "--epochs", "60", "--no-report", "--json"]
    first, again = (run_command(two_classes, tmp_path / "run", *options) for _ in range(2))
    assert (first.returncode, again.returncode) == (1, 1)
    assert json.loads(first.stdout)["type"] == "PartlyDivergedError"
    assert first.stdout == again.stdout
    assert (tmp_path / "run/head.npz").is_file()


# Each epoch has three steps, so the first repeat takes 18 steps.
@pytest.mark.parametrize(("num_steps", "bad"), [(24, 3), (18, 1)])
@pytest.mark.unit
def test_train_whose_second_repeat_diverges_keeps_first_and_reports_second(
    two_classes: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    num_steps: int,
    bad: int,
) -> None:
    good = make_config(two_classes, tmp_path / "good")
    train_head(good, quiet)
    steps = diverge_after(monkeypatch, num_steps)
    config = make_config(two_classes, tmp_path / "run", repeats=3)
    with raises(PartlyDivergedError, where=f"{config.run}, repeat 1, epoch {bad}") as caught:
        train_head(config, quiet)
    # The third repeat is not fitted.
    assert len(steps) == 18 + 3 * bad
    assert "nan" in caught.value.got
    assert "0.01" in caught.value.got
    metrics = Run(config.run).read_metrics()
    assert (metrics["epochs"], metrics["kept_epoch"]) == (6, 6)
    assert [metrics["diverged"][name] for name in ("trial", "epoch", "kept_epoch")] == ["repeat 1", bad, 6]
    assert metrics["repeats"]["val_accuracies"] == [metrics["val_accuracy"]]
    assert metrics["repeats"]["std"] == 0
    assert_same_weights(Run(config.run).read_head(), Run(good.run).read_head())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "run"]
