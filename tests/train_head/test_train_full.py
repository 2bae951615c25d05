"""Trainings with the full solver: repeats, folds, divergence, interruptions, changing stores, unusable classes."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from base.errors import HeadstartError
from base.terminal import Console, ConsoleOptions
from features.store import FeatureStore
from tests.errors import raises
from tests.files import read_files
from tests.train_head import training
from tests.train_head.fits import InterruptingConsole, assert_same_weights, fit
from tests.train_head.synthetic import add_picture, list_paths, make_store
from tests.train_head.training import NEW_OPTIONS, RUN_FILES, UNSTABLE, remove_options, rewrite_manifest
from train_head.config import SolverName, TrainConfig
from train_head.runs.read import Run
from train_head.solvers.history import PartlyDivergedError
from train_head.train import train_head

SAME_FILES = ("head.npz", "predictions.csv", "examples.csv")
"""Files without a duration, which must be equal byte for byte."""


def make_config(store: Path, run: Path, **options: Any) -> TrainConfig:
    return training.make_config(store, run, **{"solver": SolverName.FULL, "epochs": 4} | options)


def assert_same_run(mine: Path, theirs: Path) -> None:
    mine_read, theirs_read = read_files(mine), read_files(theirs)
    assert sorted(mine_read) == sorted(theirs_read) == RUN_FILES
    for name in SAME_FILES:
        assert mine_read[name] == theirs_read[name], name


@pytest.fixture(scope="module")
def single(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Run of one fit; not to be changed."""
    run = tmp_path_factory.mktemp("single") / "run"
    train_head(make_config(noisy.path, run), quiet)
    return run


def test_train_full_with_repeats_keeps_run_of_first_seed(
    noisy: FeatureStore, single: Path, tmp_path: Path, quiet: Console
) -> None:
    metrics = train_head(make_config(noisy.path, tmp_path / "run", repeats=2), quiet)
    assert_same_run(tmp_path / "run", single)
    repeats = metrics.pop("repeats")
    other = fit(noisy, make_config(noisy.path, single, seed=4), quiet)
    assert repeats["val_accuracies"] == [metrics["val_accuracy"], other.history[-1].val_accuracy]
    assert repeats["mean"] == pytest.approx(mean(repeats["val_accuracies"]))
    assert repeats["std"] == pytest.approx(stdev(repeats["val_accuracies"]))
    assert metrics | {"seconds": 0} == Run(single).read_metrics() | {"seconds": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("repeats", [1, 2])
def test_train_full_interrupted_resumes_and_removes_checkpoint(
    noisy: FeatureStore, single: Path, tmp_path: Path, repeats: int
) -> None:
    config = make_config(noisy.path, tmp_path / "run", repeats=repeats)
    with pytest.raises(KeyboardInterrupt):
        train_head(config, InterruptingConsole(4 * repeats - 1))
    assert [path.name for path in tmp_path.iterdir()] == [".checkpoint-run"]
    names = ["fit-0.npz"] if repeats == 1 else ["fit-0.npz", "fit-1.npz"]
    assert sorted(path.name for path in (tmp_path / ".checkpoint-run").iterdir()) == names
    console = InterruptingConsole(0)
    train_head(config, console)
    # A finished fit is not repeated; an unfinished one resumes after two epochs and counts those too.
    assert console.num_epochs == 4
    assert_same_run(config.run, single)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.usefixtures("eager")
def test_train_full_interrupted_with_other_solver_starts_again(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(noisy.path, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_head(config, InterruptingConsole(3))
    console = InterruptingConsole(0)
    metrics = train_head(replace(config, solver=SolverName.REDUCED, rank=5), console)
    assert (metrics["solver"], metrics["epochs"], console.num_epochs) == ("reduced", 4, 4)
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_full_that_diverges_later_keeps_last_finite_head_and_fails_each_time(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes.path, tmp_path / "run", **UNSTABLE | {"epochs": 60})
    caught = []
    for _ in range(2):
        with pytest.raises(PartlyDivergedError) as error:
            train_head(config, quiet)
        caught.append(error.value)
    metrics, history = Run(config.run).read_metrics(), Run(config.run).read_history()
    bad = len(history)
    assert 2 < bad < 60
    assert caught[0].args == caught[1].args
    assert caught[0].where == f"{config.run}, repeat 0, epoch {bad}"
    assert (metrics["epochs"], metrics["kept_epoch"]) == (bad, bad - 1)
    good = fit(two_classes, replace(config, epochs=bad - 1), quiet)
    assert_same_weights(Run(config.run).read_head(), good.weights)
    assert metrics["val_loss"] == good.history[-1].val_loss
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class ExtractingConsole(InterruptingConsole):
    """Console that adds a picture to a store after a number of epochs, as a concurrent extraction does."""

    def __init__(self, store: Path, after: int) -> None:
        super().__init__(after)
        self.store = store

    def advance(self, num_done: int, note: str = "") -> None:
        with suppress(KeyboardInterrupt):
            super().advance(num_done)
            return
        add_picture(self.store)


@pytest.mark.parametrize("num_bytes", [2**20, 0], ids=["in memory", "beyond memory"])
def test_train_full_on_store_that_changes_warns_and_uses_its_initial_state(
    noisy: FeatureStore,
    single: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_bytes: int,
) -> None:
    monkeypatch.setattr("train_head.data.batches.HELD_BYTES", num_bytes)
    store = shutil.copytree(noisy.path, tmp_path / "store")
    config = make_config(store, tmp_path / "run")
    train_head(config, ExtractingConsole(store, 2))
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(store) in warning
    assert len(FeatureStore(store).examples) == len(noisy.examples) + 1
    assert_same_run(config.run, single)


class RecordingConsole(Console):
    """Console that records each info line, with the names of the entries of a folder at that time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ConsoleOptions())
        self.folder = folder
        self.lines: list[tuple[str, list[str]]] = []

    def info(self, message: str) -> None:
        self.lines.append((message, sorted(path.name for path in self.folder.iterdir())))


@pytest.mark.parametrize("solver", [SolverName.FULL, SolverName.REDUCED])
def test_train_logs_accuracy_before_it_writes_the_run(noisy: FeatureStore, tmp_path: Path, solver: SolverName) -> None:
    console = RecordingConsole(tmp_path)
    metrics = train_head(make_config(noisy.path, tmp_path / "run", solver=solver), console)
    message, entries = console.lines[-1]
    assert f"{metrics['val_accuracy']:.4f}" in message
    # The fit is saved by then, in case a later step fails or is interrupted.
    assert ".checkpoint-run" in entries
    assert "run" not in entries
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_with_solver_auto_is_reduced_and_records_the_option(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(noisy.path, tmp_path / "run", solver=SolverName.AUTO, rank=5, epochs=1)
    metrics = train_head(config, quiet)
    record = Run(config.run).record
    assert metrics["solver"] == record.solver == "reduced"
    assert (record.config["solver"], record.config["rank"]) == ("auto", 5)
    assert Run(config.run).read_head().input_kernel.shape == (5, 8)


def test_train_again_on_run_without_newer_options_and_metrics_changes_nothing(
    noisy: FeatureStore, single: Path, tmp_path: Path, quiet: Console
) -> None:
    run = shutil.copytree(single, tmp_path / "run")
    remove_options(run, NEW_OPTIONS)
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("kept_epoch", "diverged", "train_loss"):
        del metrics[name]
    (run / "metrics.json").write_text(json.dumps(metrics))
    rewrite_manifest(run)
    before = read_files(run)
    assert train_head(make_config(noisy.path, run), quiet) == metrics
    assert read_files(run) == before


@pytest.mark.parametrize(
    ("counts", "label"),
    [
        pytest.param({"cats": 9, "dogs": 1}, "dogs", id="one picture"),
        pytest.param({"train/cats": 3, "train/dogs": 3, "validation/cats": 2}, "dogs", id="no validation picture"),
        pytest.param(
            {"train/cats": 3, "train/dogs": 3, "validation/cats": 2, "validation/dogs": 2, "validation/owls": 1},
            "owls",
            id="no training picture",
        ),
    ],
)
@pytest.mark.unit
def test_train_on_class_without_training_or_validation_pictures_fails_and_leaves_nothing(
    tmp_path: Path, quiet: Console, counts: dict[str, int], label: str
) -> None:
    store = make_store(tmp_path / "store", list_paths(counts))
    with raises(HeadstartError, where=f"class {label!r}"):
        train_head(make_config(store.path, tmp_path / "run"), quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
