"""The full solver after an interruption: the same bits as without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.fits import Interrupting, assert_same_fit, fit
from train_head.config import ClassWeight, OptimizerName, TrainConfig
from train_head.solvers import Fit
from train_head.solvers.checkpoint import Checkpoint

BASE = TrainConfig(
    Path("store"), Path("run"), epochs=5, batch_size=5, units=12, dropout=0.4, learning_rate=0.01, seed=7
)


@pytest.fixture(scope="module")
def uninterrupted(noisy: FeatureStore, quiet: Console) -> Fit:
    """What `BASE` comes to."""
    return fit(noisy, BASE, quiet)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="rmsprop"),
        pytest.param({"optimizer": OptimizerName.ADAM}, id="adam"),
        pytest.param({"optimizer": OptimizerName.SGD}, id="sgd"),
        pytest.param({"optimizer": OptimizerName.SGD, "momentum": 0.9}, id="momentum"),
        pytest.param({"l2": 0.01, "class_weight": ClassWeight.BALANCED, "patience": 3}, id="other options"),
    ],
)
def test_fit_full_interrupted_goes_on_and_ends_bit_for_bit_where_it_would_have(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, changes: dict[str, Any]
) -> None:
    config, path = replace(BASE, **changes), tmp_path / "checkpoints/fit.npz"
    expected = fit(noisy, config, quiet)
    with pytest.raises(KeyboardInterrupt):
        fit(noisy, config, Interrupting(3), Checkpoint(path, "key"))
    state, _ = Checkpoint(path, "key").load(0, quiet)
    assert [row.epoch for row in state.history] == [1, 2]
    console = Interrupting(0)
    resumed = fit(noisy, config, console, Checkpoint(path, "key"))
    assert_same_fit(resumed, expected)
    # The first two epochs are those of the first attempt, with its seconds, not done again.
    assert resumed.history[:2] == state.history
    assert console.told == len(expected.history)


@pytest.mark.usefixtures("eager")
def test_fit_full_of_three_classes_interrupted_after_every_epoch_ends_where_it_would_have(
    three_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config, path = replace(BASE, epochs=4), tmp_path / "fit.npz"
    # Each attempt goes on with what is kept, does one more epoch that is kept, and ends in the next.
    for told in (2, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            fit(three_classes, config, Interrupting(told), Checkpoint(path, "key"))
    console = Interrupting(0)
    assert_same_fit(fit(three_classes, config, console, Checkpoint(path, "key")), fit(three_classes, config, quiet))
    assert console.told == 4


@pytest.mark.usefixtures("eager")
def test_fit_full_interrupted_and_resumed_beyond_memory_ends_as_in_memory(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(noisy, BASE, quiet)
    with pytest.raises(KeyboardInterrupt):
        fit(noisy, BASE, Interrupting(4), Checkpoint(tmp_path / "fit.npz", "key"))
    # 36 features of 24 bytes: nothing is held, and a block is two batches and a bit.
    monkeypatch.setattr("train_head.data.batches.HELD_BYTES", 0)
    monkeypatch.setattr("train_head.data.batches.BLOCK_BYTES", (2 * BASE.batch_size + 1) * 24)
    assert_same_fit(fit(noisy, BASE, quiet, Checkpoint(tmp_path / "fit.npz", "key")), expected)


@pytest.mark.usefixtures("eager")
def test_fit_full_ignores_a_checkpoint_of_another_key(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(noisy, BASE, Interrupting(3), Checkpoint(tmp_path / "fit.npz", "another key"))
    other = replace(BASE, seed=8)
    assert_same_fit(fit(noisy, other, quiet, Checkpoint(tmp_path / "fit.npz", "key")), fit(noisy, other, quiet))
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("eager")
def test_fit_full_with_a_truncated_checkpoint_says_so_and_starts_from_the_beginning(
    noisy: FeatureStore,
    uninterrupted: Fit,
    tmp_path: Path,
    quiet: Console,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "fit.npz"
    with pytest.raises(KeyboardInterrupt):
        fit(noisy, BASE, Interrupting(3), Checkpoint(path, "key"))
    path.write_bytes(path.read_bytes()[:-100])
    fitted = fit(noisy, BASE, quiet, Checkpoint(path, "key"))
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {path}: expected a checkpoint, got ")
    assert said.endswith(". Training starts from the beginning\n")
    assert_same_fit(fitted, uninterrupted)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("patience", [0, 1])
def test_fit_full_that_kept_its_end_trains_nothing_the_second_time(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, patience: int
) -> None:
    config = replace(BASE, epochs=40 if patience else 3, learning_rate=0.05, patience=patience)
    first = fit(noisy, config, quiet, Checkpoint(tmp_path / "fit.npz", "key", keep_final=True))
    assert len(first.history) == (first.kept_epoch + 1 if patience else 3)
    console = Interrupting(0)
    again = fit(noisy, config, console, Checkpoint(tmp_path / "fit.npz", "key", keep_final=True))
    assert console.told == 0
    assert again.history == first.history
    assert_same_fit(again, first)
