"""A sweep that is run again, was interrupted, or finds another in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from features.console import Console
from features.errors import HeadstartError
from features.store import FeatureStore
from tests.train_head.made import add_picture
from tests.train_head.sweeps import FOUR, FOUR_NAMES, count_fits, make_sweep, read_table
from train_head.sweep import sweep


def test_sweep_again_fits_nothing_and_says_the_same(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", *FOUR)
    first = sweep(config, quiet)
    (config.out / "best" / "note.txt").write_text("kept")
    before = {path: path.stat().st_mtime_ns for path in (config.out / "trials").rglob("*")}
    fitted = count_fits(monkeypatch)
    again = sweep(config, quiet)
    assert fitted == []
    assert {path: path.stat().st_mtime_ns for path in (config.out / "trials").rglob("*")} == before
    assert [again[key] for key in ("trials", "best")] == [first[key] for key in ("trials", "best")]
    assert (config.out / "best" / "note.txt").is_file()


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


def test_sweep_into_the_folder_of_another_is_refused_and_overwrites_where_asked(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    other = replace(config, epochs=4)
    with pytest.raises(HeadstartError, match=r"another run: epochs 3 instead of 4\. Give another --out \(SWEEP=\), or"):
        sweep(other, quiet)
    fitted = count_fits(monkeypatch)
    assert [row["epochs"] for row in sweep(replace(other, overwrite=True), quiet)["trials"]] == [4, 4]
    assert len(fitted) == 2
    sweep(replace(other, overwrite=True), quiet)
    assert len(fitted) == 2


def test_sweep_on_a_store_that_has_changed_since_says_so(own_store: Path, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(own_store, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    add_picture(own_store)
    with pytest.raises(HeadstartError, match=r"the store has changed since\. Give another --out .* or --overwrite"):
        sweep(config, quiet)
    sweep(replace(config, overwrite=True), quiet)
