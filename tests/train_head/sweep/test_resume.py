"""Sweeps that are repeated, continued after an interruption, or run with other options in the same folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.sweeps import FOUR, FOUR_NAMES, Swept, make_sweep, read_table, record_fits
from tests.train_head.synthetic import add_picture
from train_head.runs.read import Run
from train_head.sweep.__main__ import sweep

Copy = Callable[[Swept], Swept]


def test_sweep_again_fits_nothing_and_returns_the_same_result(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8")
    first = sweep(config, quiet)
    before = {path: path.stat().st_mtime_ns for path in (config.out / "trials").rglob("*")}
    fitted = record_fits(monkeypatch)
    again = sweep(config, quiet)
    assert fitted == []
    assert {path: path.stat().st_mtime_ns for path in (config.out / "trials").rglob("*")} == before
    assert [again[key] for key in ("trials", "best")] == [first[key] for key in ("trials", "best")]


def test_sweep_with_more_values_fits_only_the_new_heads(
    swept: Swept, copy_sweep: Copy, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copy_sweep(swept).config
    fitted = record_fits(monkeypatch)
    result = sweep(replace(config, tries=["units=4,6,8", "dropout=0.0,0.5"]), quiet)
    assert fitted == ["units-6_dropout-0.0", "units-6_dropout-0.5"]
    assert result["num_heads"] == 6


def test_sweep_after_an_interruption_continues_with_the_interrupted_head(
    swept: Swept, noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", *FOUR)
    fitted = record_fits(monkeypatch, interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, quiet)
    assert fitted == FOUR_NAMES[:3]
    assert sorted(row["name"] for row in read_table(config.out) if row["status"] == "done") == sorted(FOUR_NAMES[:2])
    assert not (config.out / "best").exists()
    fitted = record_fits(monkeypatch)
    result = sweep(config, quiet)
    assert fitted == FOUR_NAMES[2:]
    keys = ("name", "metric", "low", "high", "val_loss")
    found, expected = ([[row[key] for key in keys] for row in each["trials"]] for each in (result, swept.result))
    assert found == expected


@pytest.mark.parametrize("overwrite", [False, True])
def test_sweep_with_other_options_keeps_earlier_trials_unless_overwriting(
    swept: Swept, copy_sweep: Copy, quiet: Console, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    config = copy_sweep(swept).config
    other = replace(config, epochs=4, overwrite=overwrite)
    fitted = record_fits(monkeypatch)
    assert [row["epochs"] for row in sweep(other, quiet)["trials"]] == [4] * 4
    assert len(fitted) == 4
    epochs = sorted(Run(path).record.config["epochs"] for path in (config.out / "trials").iterdir())
    assert epochs == ([4] * 4 if overwrite else [3] * 4 + [4] * 4)
    sweep(other, quiet)
    assert len(fitted) == 4


def test_sweep_on_a_changed_store_fits_again(own_store: Path, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(own_store, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    add_picture(own_store)
    sweep(config, quiet)
    assert Run(config.out / "best").read_metrics()["num_train"] == 24
    assert sorted(len(Run(path).read_examples()) for path in (config.out / "trials").iterdir()) == [31, 31, 32, 32]
