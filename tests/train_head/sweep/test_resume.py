"""A sweep that is run again, was interrupted, or finds another in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.sweeps import FOUR, FOUR_NAMES, count_fits, make_sweep, read_table
from tests.train_head.synthetic import add_picture
from train_head.runs.read import Run
from train_head.sweep.__main__ import sweep


def test_sweep_again_fits_nothing_and_says_the_same(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", *FOUR)
    first = sweep(config, quiet)
    (config.out / "note.txt").write_text("kept")
    before = {path: path.stat().st_mtime_ns for path in (config.out / "trials").rglob("*")}
    fitted = count_fits(monkeypatch)
    again = sweep(config, quiet)
    assert fitted == []
    assert {path: path.stat().st_mtime_ns for path in (config.out / "trials").rglob("*")} == before
    assert [again[key] for key in ("trials", "best")] == [first[key] for key in ("trials", "best")]
    assert (config.out / "note.txt").read_text() == "kept"


def test_sweep_with_more_values_fits_only_those(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(make_sweep(noisy, tmp_path / "out", *FOUR), quiet)
    fitted = count_fits(monkeypatch)
    result = sweep(make_sweep(noisy, tmp_path / "out", "units=4,6,8", "dropout=0.0,0.5"), quiet)
    assert fitted == ["units-6_dropout-0.0", "units-6_dropout-0.5"]
    assert result["num_heads"] == 6


def test_sweep_interrupted_writes_what_is_done_and_goes_on(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sweep(make_sweep(noisy, tmp_path / "expected", *FOUR), quiet)
    config = make_sweep(noisy, tmp_path / "out", *FOUR)
    fitted = count_fits(monkeypatch, interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, quiet)
    assert fitted == FOUR_NAMES[:3]
    assert sorted(row["name"] for row in read_table(config.out) if row["status"] == "done") == sorted(FOUR_NAMES[:2])
    assert not (config.out / "best").exists()
    fitted = count_fits(monkeypatch)
    result = sweep(config, quiet)
    assert fitted == FOUR_NAMES[2:]
    measured = ("name", "metric", "low", "high", "val_loss")
    assert [[row[key] for key in measured] for row in result["trials"]] == [
        [row[key] for key in measured] for row in expected["trials"]
    ]


@pytest.mark.parametrize("overwrite", [False, True])
def test_sweep_of_other_options_fits_anew_and_keeps_earlier_trials_unless_overwriting(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    other = replace(config, epochs=4, overwrite=overwrite)
    fitted = count_fits(monkeypatch)
    assert [row["epochs"] for row in sweep(other, quiet)["trials"]] == [4, 4]
    assert len(fitted) == 2
    epochs = sorted(Run(path).record.config["epochs"] for path in (config.out / "trials").iterdir())
    assert epochs == ([4, 4] if overwrite else [3, 3, 4, 4])
    sweep(other, quiet)
    assert len(fitted) == 2


def test_sweep_on_a_store_that_has_changed_since_fits_anew(own_store: Path, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(own_store, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    add_picture(own_store)
    sweep(config, quiet)
    assert Run(config.out / "best").read_metrics()["num_train"] == 24
    assert sorted(len(Run(path).read_examples()) for path in (config.out / "trials").iterdir()) == [31, 31, 32, 32]
