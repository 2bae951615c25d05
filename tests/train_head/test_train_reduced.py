"""Stage two by the reduced solver as a whole: repeats, folds, divergence, interruptions, a store that changes."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.console import Console, ConsoleOptions, ProgressBar
from features.errors import HeadstartError, UsageError
from features.schema import FeatureKey, FeatureStatus, ImageStatus, Origin
from features.store import Example, FeatureStore
from features.tables import ImageRow
from features.writer import FeatureWriter
from tests.train_head.made import (
    CLASSES,
    FINGERPRINT,
    SHAPE,
    draw_features,
    hash_text,
    list_paths,
    make_store,
    read_folder,
)
from train_head.config import OptimizerName, SolverName, TrainConfig
from train_head.head import HeadWeights
from train_head.reduction.reduce import Reduced, lift_kernel, reduce_features
from train_head.run import Run, list_run_examples
from train_head.solvers import Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.network import Batch, Stepper
from train_head.solvers.reduced import fit_reduced
from train_head.split import split_examples
from train_head.train import train_head
from train_head.trials import split_into_folds

ROOT = Path(__file__).parents[2]
FIELDS = ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")
NEW_OPTIONS = ("rank", "l2", "momentum", "class_weight", "patience", "repeats", "folds")
HEAVY = ("tensorflow", "keras", "sklearn", "scipy", "matplotlib")
RUN_AND_LOOK = f"""
import runpy, sys
sys.argv = ["train_head", *sys.argv[1:]]
try:
    runpy.run_module("train_head", run_name="__main__", alter_sys=True)
finally:
    print("imported:", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""
UNSTABLE: dict[str, Any] = {"epochs": 40, "learning_rate": 0.3, "l2": 5.0, "optimizer": OptimizerName.SGD}
"""Each step multiplies the kernels by about 1 - 2 * 0.3 * 5 = -2, so that their squares overflow in the end."""


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after each epoch."""
    monkeypatch.setattr("train_head.solvers.checkpoint.MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr("train_head.solvers.checkpoint.MAX_COST_SHARE", 1e9)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """36 training and 16 validation pictures that are hard to tell apart, so that every fit errs elsewhere."""
    counts = {"train/cats": 20, "train/dogs": 16, "validation/cats": 9, "validation/dogs": 7}
    paths = list_paths(counts)
    features = np.random.default_rng(5).normal(0.3, 0.5, (len(paths), *SHAPE))
    for feature, path in zip(features, paths, strict=True):
        feature[..., CLASSES.index(path.split("/")[1])] += 0.2
    return make_store(tmp_path_factory.mktemp("noisy") / "store", paths, features=features)


@pytest.fixture
def own_store(two_classes: FeatureStore, tmp_path: Path) -> Path:
    """A copy of that store to be changed."""
    return shutil.copytree(two_classes.path, tmp_path / "store")


def make_config(store: FeatureStore | Path, run: Path, **options: Any) -> TrainConfig:
    path = store if isinstance(store, Path) else store.path
    config = TrainConfig(
        path,
        run,
        solver=SolverName.REDUCED,
        epochs=6,
        batch_size=8,
        units=8,
        learning_rate=0.01,
        dropout=0.3,
        seed=3,
        no_report=True,
    )
    return replace(config, **options)


def run_command(store: FeatureStore, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m train_head --solver reduced`, and tells which heavy packages it imported."""
    small = ["--epochs", "3", "--units", "4", "--batch-size", "8"]
    paths = ["--store", str(store.path), "--run", str(run)]
    return subprocess.run(
        [sys.executable, "-c", RUN_AND_LOOK, *paths, "--solver", "reduced", *small, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_same_head(mine: HeadWeights, theirs: HeadWeights) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), err_msg=name)


def say(run: Run, store: FeatureStore, examples: list[Example], quiet: Console) -> NDArray[np.float64]:
    """What the run's head says of examples, (n, classes), from all inputs and in plain NumPy."""
    head, split = run.read_head(), split_examples(store.examples, 0.2)
    rank = run.record.rank
    kernel = lift_kernel(store, split, rank, head.hidden_kernel, quiet).astype(np.float64)
    inputs = store.read(examples).reshape(len(examples), -1).astype(np.float64)
    logits = np.maximum(inputs @ kernel + head.hidden_bias, 0) @ head.output_kernel + head.output_bias
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    raised = np.exp(logits)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


class Interrupting(Console):
    """Ctrl-C when some epoch is told as done, counted through all fits."""

    def __init__(self, after: int) -> None:
        super().__init__(ConsoleOptions(quiet=True))
        self.after, self.told = after, 0

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[ProgressBar]:
        yield self

    def advance(self, num_done: int) -> None:
        self.told += num_done
        if self.told == self.after:
            raise KeyboardInterrupt


def add_picture(path: Path) -> None:
    """Adds a dog to a store, as another extraction does."""
    name = "train/dogs/new.jpg"
    key = FeatureKey(hash_text(name), 0)
    with FeatureWriter(path, FINGERPRINT, Origin(SHAPE, "random", "", "")) as writer:
        writer.add_features([key], draw_features([name]), [FeatureStatus.OK])
        writer.add_image(ImageRow(name, "dogs", "train", 1, 1, key.content_hash, ImageStatus.DONE))
        writer.commit()


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
    mine, theirs = read_folder(repeated), read_folder(single.run)
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
        assert re.search(rf"{count} {kind} +│ {summary['mean']:.4f} ± {summary['std']:.4f}", done.stderr)
    names = ["repeat 1", *(f"fold {fold} of repeat {number}" for number in (0, 1) for fold in (0, 1))]
    accuracies = metrics["repeats"]["val_accuracies"][1:] + metrics["folds"]["val_accuracies"]
    lines = [f"{name}: validation accuracy {a:.4f}" for name, a in zip(names, accuracies, strict=True)]
    assert [line for line in done.stderr.splitlines() if re.match("repeat|fold", line)] == lines


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
        pytest.param(["--folds", "1"], "error: --folds: expected 0, or 2 and more, got 1. ", id="one fold"),
        pytest.param(
            ["--momentum", "0.9"],
            "error: --momentum: expected --optimizer sgd, got --optimizer rmsprop. ",
            id="momentum without sgd",
        ),
        pytest.param(
            ["--rank", "24"],
            "error: --rank: expected at most 23, the number of different training pictures, got 24. ",
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
    with pytest.raises(UsageError, match=r"^--rank: expected at most 12, all inputs, got 13\. "):
        train_head(make_config(two_classes, tmp_path / "run", rank=13), quiet)
    assert list(tmp_path.iterdir()) == []


def test_train_with_a_rank_for_the_full_solver_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(UsageError, match=r"^--rank: expected --solver reduced or auto, got --solver full\. "):
        train_head(make_config(two_classes, tmp_path / "run", rank=4, solver=SolverName.FULL), quiet)
    assert list(tmp_path.iterdir()) == []


def test_train_command_that_diverges_at_once_exits_1_with_epoch_and_rate_and_leaves_no_run(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    done = run_command(two_classes, tmp_path / "run", "--learning-rate", "1e30", "--optimizer", "sgd", "--json")
    assert done.returncode == 1
    message = json.loads(done.stdout)["error"]
    assert re.match(
        r"epoch 1: expected a finite loss, got .* at learning rate 1e\+30\. Nothing was kept\. Try a smaller", message
    )
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
    assert_same_head(run.read_head(), Run(good.run).read_head())


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
    take_step = Stepper.take_step
    # Three steps an epoch: 18 of the first repeat, and 7 of the second, which fails at its third epoch.
    taken = []

    def take_step_of_no_number(stepper: Stepper, batch: Batch) -> tuple[float, int]:
        taken.append(stepper.num_steps)
        loss, num_right = take_step(stepper, batch)
        return (loss if len(taken) < 25 else math.nan), num_right

    monkeypatch.setattr(Stepper, "take_step", take_step_of_no_number)
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
    assert_same_head(Run(config.run).read_head(), Run(good.run).read_head())


def test_train_whose_second_repeat_diverges_at_once_keeps_the_first_and_names_the_second(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = Stepper.take_step
    taken = []

    def take_step_of_no_number(stepper: Stepper, batch: Batch) -> tuple[float, int]:
        taken.append(stepper.num_steps)
        loss, num_right = take_step(stepper, batch)
        return (loss if len(taken) <= 18 else math.nan), num_right

    monkeypatch.setattr(Stepper, "take_step", take_step_of_no_number)
    config = make_config(two_classes, tmp_path / "run", repeats=3)
    with pytest.raises(HeadstartError, match=r"run, repeat 1, epoch 1: .* keeps the head of repeat 0, epoch 6\."):
        train_head(config, quiet)
    assert len(taken) == 18 + 3
    assert Run(config.run).read_metrics()["repeats"]["std"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_train_on_a_store_that_changes_meanwhile_warns_and_the_run_is_of_the_snapshot(
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
    assert capsys.readouterr().err == (
        f"warning: {own_store} changed during training; the run is of its state at the start. "
        "Train again for today's pictures\n"
    )
    assert len(FeatureStore(own_store).examples) == len(two_classes.examples) + 1
    assert (metrics["num_train"], metrics["num_validation"]) == (23, 8)
    assert Run(config.run).read_examples() == Run(expected.run).read_examples()
    assert_same_head(Run(config.run).read_head(), Run(expected.run).read_head())
    monkeypatch.undo()
    with pytest.raises(HeadstartError, match="other examples: the store has changed since"):
        train_head(config, quiet)


def test_train_on_a_store_that_goes_away_meanwhile_warns_and_keeps_the_run(
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
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {own_store} can no longer be read: {own_store}: expected a feature store, ")
    assert Run(config.run).read_metrics() == metrics


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("after", [2, 5, 6, 8, 14, 24])
def test_train_interrupted_goes_on_and_ends_as_one_that_was_not(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, after: int
) -> None:
    expected = make_config(noisy, tmp_path / "expected", repeats=2, folds=2)
    wanted = train_head(expected, quiet)
    config = replace(expected, run=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_head(config, Interrupting(after))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-run", "expected"]
    counting = Interrupting(0)
    metrics = train_head(config, counting)
    assert metrics | {"seconds": 0} == wanted | {"seconds": 0}
    for name in ("head.npz", "predictions.csv", "validation_logits.npy"):
        assert (config.run / name).read_bytes() == (expected.run / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "run"]


@pytest.mark.usefixtures("eager")
def test_train_interrupted_does_only_what_was_left(
    noisy: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    take_step = Stepper.take_step

    def take_counted_step(stepper: Stepper, batch: Batch) -> tuple[float, int]:
        taken.append(stepper.num_steps)
        return take_step(stepper, batch)

    monkeypatch.setattr(Stepper, "take_step", take_counted_step)
    config = make_config(noisy, tmp_path / "run", repeats=2)
    with pytest.raises(KeyboardInterrupt):
        train_head(config, Interrupting(9))
    # Five steps an epoch; six epochs of the first repeat and three of the second, of which two are kept.
    assert taken == [*range(30), *range(15)]
    taken.clear()
    train_head(config, Interrupting(0))
    assert taken == list(range(10, 30))


@pytest.mark.usefixtures("eager")
def test_train_interrupted_and_then_asked_for_another_fit_starts_anew(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(noisy, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_head(config, Interrupting(4))
    other = replace(config, units=9, learning_rate=0.02)
    train_head(other, quiet)
    assert capsys.readouterr().err == ""
    expected = replace(other, run=tmp_path / "expected")
    train_head(expected, quiet)
    assert_same_head(Run(other.run).read_head(), Run(expected.run).read_head())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "run"]


@pytest.mark.usefixtures("eager")
def test_train_interrupted_leaves_an_older_run_until_the_new_one_is_whole(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(noisy, tmp_path / "run")
    train_head(config, quiet)
    before = read_folder(config.run)
    other = replace(config, units=9, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        train_head(other, Interrupting(4))
    assert read_folder(config.run) == before
    train_head(other, quiet)
    assert Run(config.run).read_head().hidden_bias.shape == (9,)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


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


def forget_options(run: Path, names: tuple[str, ...]) -> None:
    record = json.loads((run / "run.json").read_text())
    for name in names:
        del record["config"][name]
    (run / "run.json").write_text(json.dumps(record))


def test_train_on_a_run_that_is_older_than_some_options_takes_it_for_one_with_their_defaults(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(two_classes, tmp_path / "run")
    metrics = train_head(config, quiet)
    forget_options(config.run, NEW_OPTIONS)
    before = read_folder(config.run)
    assert train_head(config, quiet) == metrics
    assert read_folder(config.run) == before


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
def test_train_on_a_run_that_is_older_than_an_option_refuses_another_value_than_its_default(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, change: dict[str, Any], message: str
) -> None:
    config = make_config(two_classes, tmp_path / "run", epochs=1)
    train_head(config, quiet)
    forget_options(config.run, NEW_OPTIONS)
    with pytest.raises(HeadstartError, match=re.escape(message)):
        train_head(replace(config, **change), quiet)


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
