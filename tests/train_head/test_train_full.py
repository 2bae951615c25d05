"""Stage two by the full solver as a whole: repeats, folds, divergence, interruptions, a store that changes."""

from __future__ import annotations

import json
import re
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
from tests.files import read_files
from tests.train_head import training
from tests.train_head.fits import InterruptingConsole, assert_same_weights, fit
from tests.train_head.synthetic import add_picture, list_paths, make_store
from tests.train_head.training import NEW_OPTIONS, UNSTABLE, remove_options, rewrite_manifest
from train_head.config import SolverName, TrainConfig
from train_head.runs.read import Run
from train_head.train import train_head

RUN_FILES = ["examples.csv", "head.npz", "history.csv", "local.json", "metrics.json", "predictions.csv", "run.json"]
SAME_FILES = ("head.npz", "predictions.csv", "examples.csv")
"""Those that hold no duration."""


def make_config(store: Path, run: Path, **options: Any) -> TrainConfig:
    return training.make_config(store, run, **{"solver": SolverName.FULL, "epochs": 4} | options)


def assert_same_run(mine: Path, theirs: Path) -> None:
    mine_read, theirs_read = read_files(mine), read_files(theirs)
    assert sorted(mine_read) == sorted(theirs_read) == RUN_FILES
    for name in SAME_FILES:
        assert mine_read[name] == theirs_read[name], name


@pytest.fixture(scope="module")
def single(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """A run of one fit, not to be changed."""
    run = tmp_path_factory.mktemp("single") / "run"
    train_head(make_config(noisy.path, run), quiet)
    return run


def test_train_full_with_repeats_and_folds_keeps_the_run_of_the_first_seed(
    noisy: FeatureStore, single: Path, tmp_path: Path, quiet: Console
) -> None:
    metrics = train_head(make_config(noisy.path, tmp_path / "run", repeats=2, folds=2), quiet)
    assert_same_run(tmp_path / "run", single)
    repeats, folds = metrics.pop("repeats"), metrics.pop("folds")
    other = fit(noisy, make_config(noisy.path, single, seed=4), quiet)
    assert repeats["val_accuracies"] == [metrics["val_accuracy"], other.history[-1].val_accuracy]
    assert len(folds["val_accuracies"]) == 4
    for summary in (repeats, folds):
        assert summary["mean"] == pytest.approx(mean(summary["val_accuracies"]))
        assert summary["std"] == pytest.approx(stdev(summary["val_accuracies"]))
    assert metrics | {"seconds": 0} == Run(single).read_metrics() | {"seconds": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("repeats", [1, 2])
def test_train_full_interrupted_goes_on_from_the_checkpoint_and_removes_it_in_the_end(
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
    # Of a fit that ended nothing is told; the other goes on after the two epochs that were kept.
    assert console.num_epochs == 4
    assert_same_run(config.run, single)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.usefixtures("eager")
def test_train_full_interrupted_and_then_asked_for_the_other_solver_starts_anew(
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


def test_train_full_that_diverges_later_keeps_the_last_good_head_and_raises_each_time(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes.path, tmp_path / "run", **UNSTABLE | {"epochs": 60})
    said = []
    for _ in range(2):
        with pytest.raises(HeadstartError) as raised:
            train_head(config, quiet)
        said.append(str(raised.value))
    metrics, history = Run(config.run).read_metrics(), Run(config.run).read_history()
    bad = len(history)
    assert 2 < bad < 60
    assert raised.value.exit_status == 1
    assert said[0] == said[1]
    assert re.fullmatch(
        rf"{config.run}, repeat 0, epoch {bad}: expected a finite loss, got .* at learning rate 0\.3\. "
        rf"The run keeps the head of repeat 0, epoch {bad - 1}\. Try a smaller --learning-rate\.",
        said[0],
    )
    assert (metrics["epochs"], metrics["kept_epoch"]) == (bad, bad - 1)
    good = fit(two_classes, replace(config, epochs=bad - 1), quiet)
    assert_same_weights(Run(config.run).read_head(), good.weights)
    assert metrics["val_loss"] == good.history[-1].val_loss
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Adding(InterruptingConsole):
    """A console that adds a dog to a store when an epoch is told, as another extraction does."""

    def __init__(self, store: Path, after: int) -> None:
        super().__init__(after)
        self.store = store

    def advance(self, num_done: int, note: str = "") -> None:
        with suppress(KeyboardInterrupt):
            super().advance(num_done)
            return
        add_picture(self.store)


@pytest.mark.parametrize("num_bytes", [2**20, 0], ids=["in memory", "beyond memory"])
def test_train_full_on_a_store_that_changes_meanwhile_warns_and_the_run_is_of_the_snapshot(
    noisy: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_bytes: int,
) -> None:
    monkeypatch.setattr("train_head.data.batches.HELD_BYTES", num_bytes)
    expected = make_config(noisy.path, tmp_path / "expected")
    train_head(expected, quiet)
    store = shutil.copytree(noisy.path, tmp_path / "store")
    config = replace(expected, store=store, run=tmp_path / "run")
    train_head(config, Adding(store, 2))
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {store} changed")
    assert len(FeatureStore(store).examples) == len(noisy.examples) + 1
    assert_same_run(config.run, expected.run)


class Looking(Console):
    """A console that notes, at each line it says, what stands in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ConsoleOptions())
        self.folder = folder
        self.seen: list[tuple[str, list[str]]] = []

    def info(self, message: str) -> None:
        super().info(message)
        self.seen.append((message, sorted(path.name for path in self.folder.iterdir())))


@pytest.mark.parametrize("solver", [SolverName.FULL, SolverName.REDUCED])
def test_train_says_the_accuracy_on_stderr_before_the_run_is_written(
    noisy: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], solver: SolverName
) -> None:
    console = Looking(tmp_path)
    metrics = train_head(replace(make_config(noisy.path, tmp_path / "run"), solver=solver), console)
    message, folder = console.seen[-1]
    assert re.fullmatch(rf"validation accuracy {metrics['val_accuracy']:.4f} after \d+\.\d s", message)
    # The fit is kept by then, in case that what follows fails or is interrupted.
    assert ".checkpoint-run" in folder
    assert "run" not in folder
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()[-1]) == ("", message)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("solver", [SolverName.FULL, SolverName.REDUCED])
def test_train_by_auto_says_which_solver_and_why_and_keeps_a_run_of_it(
    noisy: FeatureStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    solver: SolverName,
) -> None:
    monkeypatch.setattr("train_head.train.choose_solver", lambda *_: (solver, "so the test says"))
    config = replace(make_config(noisy.path, tmp_path / "run"), solver=SolverName.AUTO, rank=5, epochs=1)
    metrics = train_head(config, Console())
    said = capsys.readouterr().err
    assert f"\nsolver: {solver.value} (so the test says)\n" in said
    warning = "warning: the full solver takes all inputs; --rank is for the reduced one\n"
    assert (warning in said) == (solver is SolverName.FULL)
    record = Run(config.run).record
    assert metrics["solver"] == record.solver == solver.value
    assert (record.config["solver"], record.config["rank"]) == ("auto", 5)
    assert Run(config.run).read_head().hidden_kernel.shape == ((12, 8) if solver is SolverName.FULL else (5, 8))


def test_train_on_a_run_from_before_the_reduced_solver_does_nothing(
    noisy: FeatureStore, single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(single, tmp_path / "run")
    remove_options(run, NEW_OPTIONS)
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("kept_epoch", "diverged", "train_loss"):
        del metrics[name]
    (run / "metrics.json").write_text(json.dumps(metrics))
    rewrite_manifest(run)
    before = read_files(run)
    assert train_head(make_config(noisy.path, run), Console()) == metrics
    assert read_files(run) == before
    assert f"{run}: holds this very run already; nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("solver", list(SolverName))
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        pytest.param(
            {"cats": 9, "dogs": 1},
            "class 'dogs': ",
            id="one picture",
        ),
        pytest.param(
            {"train/cats": 3, "train/dogs": 3, "validation/cats": 2},
            "class 'dogs': ",
            id="none to validate with",
        ),
        pytest.param(
            {"train/cats": 3, "train/dogs": 3, "validation/cats": 2, "validation/dogs": 2, "validation/owls": 1},
            "class 'owls': ",
            id="none to train on",
        ),
    ],
)
def test_train_on_a_class_that_a_side_lacks_names_it_and_leaves_nothing(
    tmp_path: Path, quiet: Console, solver: SolverName, counts: dict[str, int], message: str
) -> None:
    store = make_store(tmp_path / "store", list_paths(counts))
    with pytest.raises(HeadstartError) as raised:
        train_head(replace(make_config(store.path, tmp_path / "run"), solver=solver), quiet)
    assert str(raised.value).startswith(message)
    assert raised.value.exit_status == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
