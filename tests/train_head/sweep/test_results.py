"""Files of a sweep: written together, beside foreign files, and kept after failures."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError, TargetLockedError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.files import read_files
from tests.train_head.sweeps import Swept, make_sweep, read_table, record_fits, without_ridge
from train_head.config import OptimizerName, ReportConfig
from train_head.report.sources import load_sources
from train_head.runs.read import Run
from train_head.sweep.__main__ import sweep
from train_head.sweep.config import SearchName, SweepConfig
from train_head.sweep.fit import measure_baselines
from train_head.sweep.run import NoHeadError, sweep_heads

RESULTS = ("sweep.csv", "sweep.png", "best")

Copy = Callable[[Swept], Swept]


class Killed(BaseException):
    pass


def read_results(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in read_files(out).items() if name.split("/")[0] in RESULTS}


@pytest.mark.unit
@pytest.mark.parametrize("name", ["sweep.csv", "sweep.png", "best/thesis.txt", "best/run.json", "trials", "best"])
def test_sweep_into_a_folder_with_a_foreign_file_in_place_of_a_result_is_refused(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    (out / "other.txt").write_text("mine")
    before = read_files(out)
    fitted = record_fits(monkeypatch)
    with pytest.raises(HeadstartError) as caught:
        sweep(make_sweep(noisy, out, "units=4,8", overwrite=True), quiet)
    assert str(caught.value.where) in (str(out / name), str((out / name).parent))
    assert fitted == []
    assert read_files(out) == before


def test_sweep_keeps_foreign_files_of_other_names(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    out = tmp_path / "project"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    config = make_sweep(noisy, out, "units=4", no_report=False)
    sweep_heads(config, quiet)
    sweep_heads(replace(config, epochs=2), quiet)
    assert sorted(path.name for path in out.iterdir()) == sorted([*RESULTS, "thesis.txt", "trials"])
    assert (out / "thesis.txt").read_text() == "mine"


@pytest.mark.unit
@pytest.mark.parametrize("error", [KeyboardInterrupt(), HeadstartError("a shard", "it", "none", "Look")], ids=repr)
def test_sweep_that_fails_keeps_earlier_results(
    swept: Swept, copy_sweep: Copy, quiet: Console, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    config = copy_sweep(swept).config
    before = read_results(config.out)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("train_head.solvers.reduced.fit_reduced", fail)
    with pytest.raises(type(error)):
        sweep(replace(config, epochs=4, overwrite=True), quiet)
    assert read_results(config.out) == before


@pytest.mark.unit
def test_sweep_without_a_finite_head_keeps_earlier_results(swept: Swept, copy_sweep: Copy, quiet: Console) -> None:
    config = copy_sweep(swept).config
    before = read_results(config.out)
    with raises(NoHeadError, where=config.out):
        sweep_heads(replace(config, tries=["learning-rate=1e38"], optimizer=OptimizerName.SGD), quiet)
    assert read_results(config.out) == before


@pytest.mark.unit
def test_sweep_into_a_locked_folder_is_refused(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4")
    refused = []

    def sweep_too(*arguments: Any) -> Any:
        with raises(TargetLockedError, where=config.out):
            sweep_heads(config, quiet)
        refused.append(True)
        return measure_baselines(*arguments)

    monkeypatch.setattr("train_head.sweep.run.measure_baselines", sweep_too)
    sweep(config, quiet)
    assert refused == [True]


def count_steps(patch: pytest.MonkeyPatch, kill_at: int) -> list[int]:
    """Count renames and removals in the returned list, and raise Killed at each one after the first `kill_at`."""
    counts = [0]
    for name in ("rename", "rmdir", "replace", "unlink"):
        real = getattr(os, name)

        def change(*arguments: Any, real: Any = real, **options: Any) -> Any:
            counts[0] += 1
            if counts[0] > kill_at:
                raise Killed
            return real(*arguments, **options)

        patch.setattr(os, name, change)
    return counts


def change_sweep(config: SweepConfig) -> SweepConfig:
    """Return the options of one other head in the same folder."""
    return replace(config, tries=["units=4"], epochs=4, overwrite=True)


@pytest.fixture(scope="module")
def num_steps(swept: Swept, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> int:
    """Number of renames and removals of the sweep that is killed."""
    out = shutil.copytree(swept.config.out, tmp_path_factory.mktemp("steps") / "out")
    with pytest.MonkeyPatch.context() as patch, without_ridge():
        counts = count_steps(patch, sys.maxsize)
        sweep_heads(change_sweep(replace(swept.config, out=out)), quiet)
    return counts[0]


@pytest.mark.parametrize("num_left", [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30])
def test_sweep_killed_at_any_step_has_the_old_or_the_new_results(
    swept: Swept, copy_sweep: Copy, quiet: Console, num_steps: int, num_left: int
) -> None:
    config = copy_sweep(swept).config
    again = change_sweep(config)
    assert num_left < num_steps
    with pytest.MonkeyPatch.context() as patch:
        count_steps(patch, num_steps - num_left)
        with pytest.raises(Killed):
            sweep_heads(again, quiet)
    # Reading the best run completes an interrupted replacement.
    sources = load_sources(ReportConfig(config.out / "best"))
    table = read_table(config.out)
    epochs = str(sources.run.record.config["epochs"])
    assert {row["epochs"] for row in table if row["status"] == "done"} == {epochs}
    sweep_heads(again, quiet)
    assert Run(config.out / "best").record.config["epochs"] == 4
    assert sorted(path.name for path in config.out.iterdir()) == ["best", "sweep.csv", "trials"]
    assert [path.name for path in config.out.parent.iterdir()] == ["out"]


@pytest.mark.unit
def test_sweep_keeps_the_table_and_the_best_run_if_the_plot_fails(
    swept: Swept, copy_sweep: Copy, quiet: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("unknown colour")

    monkeypatch.setattr("train_head.sweep.plot.draw_sweep", fail)
    config = copy_sweep(swept).config
    sweep_heads(replace(config, no_report=False), quiet)
    assert sorted(path.name for path in config.out.iterdir()) == ["best", "sweep.csv", "trials"]
    assert "unknown colour" in capsys.readouterr().err


def test_sweep_interrupted_before_the_report_writes_it_the_next_time(
    swept: Swept, copy_sweep: Copy, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(copy_sweep(swept).config, no_report=False)
    page = config.out / "best" / "report.html"
    with monkeypatch.context() as patch:
        patch.setattr("train_head.report.page.write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep(config, quiet)
    assert not page.exists()
    fitted = record_fits(monkeypatch)
    sweep(config, quiet)
    written = page.read_bytes()
    sweep(config, quiet)
    assert (fitted, page.read_bytes()) == ([], written)


@pytest.mark.parametrize("content", ["mine", '{"mine": 1}\n', "[1]\n"])
def test_search_with_a_foreign_file_named_as_its_journal_is_refused(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, content: str
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4..8", search=SearchName.OPTUNA, trials=2)
    config.out.mkdir()
    (config.out / "optuna.journal").write_text(content)
    with raises(HeadstartError, where=config.out / "optuna.journal"):
        sweep(config, quiet)
    assert (config.out / "optuna.journal").read_text() == content


def test_search_after_a_kill_in_a_line_of_the_journal_continues(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4..64", search=SearchName.OPTUNA, trials=3)
    expected = sweep(config, quiet)
    journal = config.out / "optuna.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    # A kill also leaves the lock of the journal, if the journal has one.
    (config.out / "optuna.journal.lock").symlink_to(journal)
    fitted = record_fits(monkeypatch)
    again = sweep(config, quiet)
    assert fitted == []
    assert [row["name"] for row in again["trials"]] == [row["name"] for row in expected["trials"]]


def test_search_in_a_moved_folder_with_a_moved_store_continues_its_study(
    own_store: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(own_store, tmp_path / "out", "units=4..64", search=SearchName.OPTUNA, trials=3)
    sweep(config, quiet)
    (tmp_path / "moved").mkdir()
    for name in ("out", "store"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    fitted = record_fits(monkeypatch)
    sweep(replace(config, out=tmp_path / "moved" / "out", store=tmp_path / "moved" / "store"), quiet)
    assert fitted == []
