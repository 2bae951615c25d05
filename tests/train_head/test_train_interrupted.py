"""Trainings that are interrupted, or whose store changes during the fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.files import read_files
from tests.train_head.fits import InterruptingConsole, assert_same_weights
from tests.train_head.synthetic import add_picture
from tests.train_head.training import make_config
from train_head.config import SolverName
from train_head.reduction.reduce import Reduced, reduce_features
from train_head.runs.read import Run
from train_head.solvers.network import Batch, HeadTrainer
from train_head.train import train_head


@pytest.mark.unit
def test_train_on_store_that_changes_warns_and_uses_its_initial_state(
    own_store: Path,
    two_classes: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = make_config(two_classes, tmp_path / "expected")
    train_head(expected, quiet)

    def reduce_and_add(*arguments: Any) -> Reduced:
        reduced = reduce_features(*arguments)
        add_picture(own_store)
        return reduced

    monkeypatch.setattr("train_head.solvers.reduced.reduce_features", reduce_and_add)
    config = make_config(own_store, tmp_path / "run")
    metrics = train_head(config, quiet)
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(own_store) in warning
    assert len(FeatureStore(own_store).examples) == len(two_classes.examples) + 1
    assert (metrics["num_train"], metrics["num_validation"]) == (23, 8)
    assert Run(config.run).read_examples() == Run(expected.run).read_examples()
    assert_same_weights(Run(config.run).read_head(), Run(expected.run).read_head())
    monkeypatch.undo()
    assert train_head(config, quiet)["num_train"] == 24
    kept = [path for path in tmp_path.iterdir() if path.name.startswith("run-")]
    assert [Run(path).read_examples() for path in kept] == [Run(expected.run).read_examples()]


@pytest.mark.unit
def test_train_on_store_that_is_removed_warns_and_writes_run(
    own_store: Path,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def reduce_and_remove(*arguments: Any) -> Reduced:
        reduced = reduce_features(*arguments)
        shutil.rmtree(own_store)
        return reduced

    monkeypatch.setattr("train_head.solvers.reduced.reduce_features", reduce_and_remove)
    config = make_config(own_store, tmp_path / "run")
    metrics = train_head(config, quiet)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert all(str(own_store) in warning for warning in warnings)
    assert Run(config.run).read_metrics() == metrics
    assert metrics["outliers"] is None


@pytest.fixture(scope="module")
def uninterrupted(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Run of two repeats and two folds; not to be changed."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_head(make_config(noisy, run, repeats=2, folds=2), quiet)
    return run


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("after", [2, 5, 6, 8, 14, 24])
def test_train_interrupted_resumes_and_gives_the_same_run(
    noisy: FeatureStore, uninterrupted: Path, tmp_path: Path, after: int
) -> None:
    config = make_config(noisy, tmp_path / "run", repeats=2, folds=2)
    with pytest.raises(KeyboardInterrupt):
        train_head(config, InterruptingConsole(after))
    assert [path.name for path in tmp_path.iterdir()] == [".checkpoint-run"]
    metrics = train_head(config, InterruptingConsole(0))
    assert metrics | {"seconds": 0} == Run(uninterrupted).read_metrics() | {"seconds": 0}
    for name in ("head.npz", "predictions.csv", "validation_logits.npy"):
        assert (config.run / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.usefixtures("eager")
@pytest.mark.unit
def test_train_interrupted_repeats_no_finished_epoch(
    noisy: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    train_on_batch = HeadTrainer.train_on_batch

    def train_on_counted_batch(stepper: HeadTrainer, batch: Batch) -> tuple[float, int]:
        taken.append(stepper.num_steps)
        return train_on_batch(stepper, batch)

    monkeypatch.setattr(HeadTrainer, "train_on_batch", train_on_counted_batch)
    config = make_config(noisy, tmp_path / "run", repeats=2)
    with pytest.raises(KeyboardInterrupt):
        train_head(config, InterruptingConsole(9))
    # An epoch has five steps. Six epochs of the first repeat and three of the second ran; the last one is lost.
    assert taken == [*range(30), *range(15)]
    taken.clear()
    train_head(config, InterruptingConsole(0))
    assert taken == list(range(10, 30))


@pytest.mark.usefixtures("eager")
@pytest.mark.unit
def test_train_interrupted_with_other_options_starts_again(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(noisy, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_head(config, InterruptingConsole(4))
    other = replace(config, units=9, learning_rate=0.02)
    train_head(other, quiet)
    assert capsys.readouterr().err == ""
    expected = replace(other, run=tmp_path / "expected")
    train_head(expected, quiet)
    assert_same_weights(Run(other.run).read_head(), Run(expected.run).read_head())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "run"]


@pytest.mark.usefixtures("eager")
@pytest.mark.unit
def test_train_interrupted_leaves_earlier_run_until_new_one_is_complete(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(noisy, tmp_path / "run")
    train_head(config, quiet)
    before = read_files(config.run)
    other = replace(config, units=9, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        train_head(other, InterruptingConsole(4))
    assert read_files(config.run) == before
    train_head(other, quiet)
    assert Run(config.run).read_head().input_bias.shape == (9,)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# The key contains neither the version of Headstart nor that of Keras, so an old checkpoint may have other arrays.
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("solver", [SolverName.FULL, SolverName.REDUCED])
def test_train_interrupted_with_checkpoint_of_other_arrays_warns_and_starts_again(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], solver: SolverName
) -> None:
    config = make_config(noisy, tmp_path / "run", solver=solver)
    with pytest.raises(KeyboardInterrupt):
        train_head(config, InterruptingConsole(3))
    path = tmp_path / ".checkpoint-run/fit-0.npz"
    with np.load(path) as arrays:
        contents = dict(arrays)
    text = json.loads(contents["text"].tobytes())
    text["num_arrays"] -= 1
    contents["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
    np.savez(path, **contents)
    console = InterruptingConsole(0)
    train_head(config, console)
    assert console.num_epochs == config.epochs
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(path) in warning
