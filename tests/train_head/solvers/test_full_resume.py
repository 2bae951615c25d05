"""The full solver resumed after an interruption: the same bits as without one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.fits import InterruptingConsole, assert_same_fit, fit, list_values
from train_head.config import ClassWeight, OptimizerName, TrainConfig
from train_head.solvers import Fit
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.history import Epoch

BASE = TrainConfig(
    Path("store"), Path("run"), epochs=4, batch_size=5, units=12, dropout=0.4, learning_rate=0.01, seed=7
)

pytestmark = pytest.mark.usefixtures("eager")


@dataclass(frozen=True)
class Whole:
    """An uninterrupted fit, and its checkpoints."""

    fit: Fit
    epochs: list[Epoch]
    """Rows that `on_epoch_end` received."""
    partial: Path
    """Checkpoint after two epochs."""
    final: Path
    """Checkpoint after the last epoch."""


def fit_whole(store: FeatureStore, config: TrainConfig, folder: Path, console: Console) -> Whole:
    epochs: list[Epoch] = []
    final, partial = folder / "fit.npz", folder / "partial.npz"

    def copy_checkpoint(row: Epoch) -> None:
        epochs.append(row)
        if row.epoch == 2:
            shutil.copy(final, partial)

    fitted = fit(store, config, console, Checkpoint(final, "key", keep_final=True), copy_checkpoint)
    return Whole(fitted, epochs, partial, final)


@pytest.fixture(scope="module")
def whole(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Whole:
    """Uninterrupted fit of `BASE` with its checkpoints, not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_head.solvers.checkpoint.MIN_INTERVAL_S", 0.0)
        patch.setattr("train_head.solvers.checkpoint.MAX_COST_SHARE", 1e9)
        return fit_whole(noisy, BASE, tmp_path_factory.mktemp("whole"), quiet)


def copy(path: Path, folder: Path) -> Checkpoint:
    return Checkpoint(Path(shutil.copy(path, folder / "fit.npz")), "key")


def assert_resumes(store: FeatureStore, config: TrainConfig, whole: Whole, folder: Path) -> None:
    """Resume after two epochs, and compare with the uninterrupted fit."""
    console = InterruptingConsole(0)
    epochs: list[Epoch] = []
    resumed = fit(store, config, console, copy(whole.partial, folder), epochs.append)
    assert_same_fit(resumed, whole.fit)
    # The first two epochs have the durations of the first attempt, so they were not repeated.
    assert resumed.history[:2] == whole.fit.history[:2]
    assert epochs == resumed.history
    assert whole.epochs == whole.fit.history
    assert console.num_epochs == len(whole.fit.history)


def test_fit_full_resumed_with_rmsprop_equals_an_uninterrupted_fit(
    noisy: FeatureStore, whole: Whole, tmp_path: Path
) -> None:
    assert len(whole.fit.history) == 4
    assert_resumes(noisy, BASE, whole, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"optimizer": OptimizerName.ADAM, "l2": 0.01, "class_weight": ClassWeight.BALANCED, "patience": 3},
            id="adam-l2-balanced-patience",
        ),
        pytest.param({"optimizer": OptimizerName.SGD, "momentum": 0.9}, id="momentum"),
    ],
)
def test_fit_full_resumed_with_other_options_equals_an_uninterrupted_fit(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, changes: dict[str, Any]
) -> None:
    config = replace(BASE, **changes)
    assert_resumes(noisy, config, fit_whole(noisy, config, tmp_path, quiet), tmp_path)


def test_fit_full_interrupted_twice_equals_an_uninterrupted_fit(
    noisy: FeatureStore, whole: Whole, tmp_path: Path, quiet: Console
) -> None:
    path = tmp_path / "fit.npz"
    # Each attempt resumes, adds one epoch to the checkpoint, and is interrupted in the next epoch.
    for num_epochs in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            fit(noisy, BASE, InterruptingConsole(num_epochs), Checkpoint(path, "key"))
        stopping, _ = Checkpoint(path, "key").load(0, quiet)
        assert len(stopping.history) == num_epochs - 1
    console = InterruptingConsole(0)
    assert_same_fit(fit(noisy, BASE, console, Checkpoint(path, "key")), whole.fit)
    assert console.num_epochs == BASE.epochs


@pytest.mark.parametrize("changes", [{"seed": 8}, {"dropout": 0.0}], ids=["seed", "dropout"])
def test_fit_full_with_another_seed_or_dropout_gives_other_bits(
    noisy: FeatureStore, whole: Whole, quiet: Console, changes: dict[str, Any]
) -> None:
    other = fit(noisy, replace(BASE, epochs=1, **changes), quiet)
    assert list_values(other)[0] != list_values(whole.fit)[0]


def test_fit_full_resumed_beyond_memory_equals_a_fit_in_memory(
    noisy: FeatureStore, whole: Whole, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 36 features of 24 bytes: none stays in memory, and a block holds two batches and one more feature.
    monkeypatch.setattr("train_head.data.batches.HELD_BYTES", 0)
    monkeypatch.setattr("train_head.data.batches.BLOCK_BYTES", (2 * BASE.batch_size + 1) * 24)
    assert_same_fit(fit(noisy, BASE, quiet, copy(whole.partial, tmp_path)), whole.fit)


def test_fit_full_with_a_checkpoint_of_other_shapes_warns_and_starts_again(
    noisy: FeatureStore, whole: Whole, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = copy(whole.partial, tmp_path)
    fitted = fit(noisy, replace(BASE, units=13, epochs=1), quiet, checkpoint)
    assert len(fitted.history) == 1
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {tmp_path / 'fit.npz'}: ")


def test_fit_full_after_all_epochs_trains_no_further(noisy: FeatureStore, whole: Whole, tmp_path: Path) -> None:
    console = InterruptingConsole(0)
    again = fit(noisy, BASE, console, copy(whole.final, tmp_path))
    assert console.num_epochs == 0
    assert again.history == whole.fit.history
    assert_same_fit(again, whole.fit)


def test_fit_full_out_of_patience_trains_no_further(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = replace(BASE, epochs=40, learning_rate=0.2, patience=1)
    first = fit(noisy, config, quiet, Checkpoint(tmp_path / "fit.npz", "key", keep_final=True))
    assert len(first.history) == first.kept_epoch + 1 < 40
    console = InterruptingConsole(0)
    again = fit(noisy, config, console, Checkpoint(tmp_path / "fit.npz", "key", keep_final=True))
    assert console.num_epochs == 0
    assert again.history == first.history
    assert_same_fit(again, first)
