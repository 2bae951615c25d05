"""What a sweep makes: all of it together, nothing of the user's touched, and nothing finished lost."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError, TargetLockedError
from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.sweeps import count_fits, make_sweep, read_table
from tests.train_head.synthetic import read_folder
from train_head.config import ReportConfig
from train_head.report.sources import load_sources
from train_head.runs.read import Run
from train_head.sweep.__main__ import sweep
from train_head.sweep.config import SearchName
from train_head.sweep.fit import fit_baselines
from train_head.sweep.run import sweep_heads

RESULTS = ("sweep.csv", "sweep.png", "best")


class Killed(BaseException):
    pass


def read_results(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in read_folder(out).items() if name.split("/")[0] in RESULTS}


@pytest.mark.parametrize("name", ["sweep.csv", "sweep.png", "best/thesis.txt", "best/run.json", "trials", "best"])
def test_sweep_into_a_folder_with_foreign_files_of_its_names_is_refused_before_any_fit(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    (tmp_path / "out" / "other.txt").write_text("mine")
    before = read_folder(tmp_path / "out")
    fitted = count_fits(monkeypatch)
    with pytest.raises(HeadstartError):
        sweep(make_sweep(noisy, tmp_path / "out", "units=4,8", overwrite=True), quiet)
    assert fitted == []
    assert read_folder(tmp_path / "out") == before


def test_sweep_beside_the_users_own_files_leaves_them(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    out = tmp_path / "project"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    config = make_sweep(noisy, out, "units=4,8", no_report=False)
    sweep(config, quiet)
    sweep(replace(config, epochs=2), quiet)
    assert sorted(path.name for path in out.iterdir()) == sorted([*RESULTS, "thesis.txt", "trials"])
    assert (out / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, HeadstartError("a shard", "it", "none", "Look")])
def test_sweep_interrupted_or_refused_over_earlier_results_leaves_them_as_they_are(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    before = read_results(config.out)

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("train_head.solvers.reduced.fit_reduced", fail)
        with pytest.raises(type(error) if isinstance(error, BaseException) else error):
            sweep(replace(config, epochs=4, overwrite=True), quiet)
    assert read_results(config.out) == before


def test_sweep_of_which_no_head_is_fitted_to_its_end_leaves_earlier_results(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    before = read_results(config.out)
    with contextlib.suppress(Exception):
        sweep(make_sweep(noisy, tmp_path / "out", "learning_rate=1e30,1e31", optimizer="sgd"), quiet)
    assert read_results(config.out) == before


def test_sweep_while_another_sweeps_the_folder_is_refused(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8")
    refused = []

    def sweep_too(*arguments: Any) -> Any:
        with pytest.raises(TargetLockedError) as raised:
            sweep_heads(config, quiet)
        refused.append(raised.value.where)
        return fit_baselines(*arguments)

    monkeypatch.setattr("train_head.sweep.run.fit_baselines", sweep_too)
    sweep(config, quiet)
    assert refused == [config.out]


@pytest.mark.parametrize("number", range(0, 40, 4))
def test_sweep_killed_at_any_step_has_the_old_or_the_new_results_whole(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    left = [number]
    with monkeypatch.context() as patch:
        for module, name in ((os, "rename"), (os, "rmdir"), (os, "replace"), (os, "unlink")):
            real = getattr(module, name)

            def change(*arguments: Any, real: Any = real, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*arguments, **options)

            patch.setattr(module, name, change)
        with contextlib.suppress(Killed):
            sweep_heads(replace(config, epochs=4, overwrite=True), quiet)
    # The report of the best looks for what the kill left.
    sources = load_sources(ReportConfig(config.out / "best"))
    table = read_table(config.out)
    epochs = str(sources.run.record.config["epochs"])
    assert {row["epochs"] for row in table if row["status"] == "done"} == {epochs}
    sweep(replace(config, epochs=4, overwrite=True), quiet)
    assert Run(config.out / "best").record.config["epochs"] == 4
    assert sorted(path.name for path in config.out.iterdir()) == ["best", "sweep.csv", "trials"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_sweep_table_has_paths_from_its_folder(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8")
    sweep(config, quiet)
    runs = sorted(row["run"] for row in read_table(config.out) if row["status"] == "done")
    assert runs == ["trials/units-4", "trials/units-8"]
    assert str(tmp_path) not in (config.out / "sweep.csv").read_text()


def test_sweep_whose_plot_fails_keeps_the_table_and_the_best(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a colour that there is not")

    monkeypatch.setattr("train_head.sweep.plot.draw_sweep", fail)
    config = make_sweep(noisy, tmp_path / "out", "units=4,8", no_report=False)
    sweep(config, quiet)
    assert sorted(path.name for path in config.out.iterdir()) == ["best", "sweep.csv", "trials"]
    assert (config.out / "best" / "report.html").is_file()


def test_sweep_interrupted_before_the_report_of_the_best_writes_it_the_next_time(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4,8", no_report=False)
    with monkeypatch.context() as patch:
        patch.setattr("train_head.report.page.write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep(config, quiet)
    page = config.out / "best" / "report.html"
    assert not page.exists()
    sweep(config, quiet)
    written = page.read_bytes()
    fitted = count_fits(monkeypatch)
    sweep(config, quiet)
    assert (fitted, page.read_bytes()) == ([], written)


@pytest.mark.parametrize("content", ["mine", '{"mine": 1}\n', "[1]\n"])
def test_search_with_a_foreign_file_of_the_journals_name_is_refused_and_leaves_it(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, content: str
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4..8", search=SearchName.OPTUNA, trials=2)
    config.out.mkdir()
    (config.out / "optuna.journal").write_text(content)
    with pytest.raises(HeadstartError) as raised:
        sweep(config, quiet)
    assert raised.value.where == config.out / "optuna.journal"
    assert (config.out / "optuna.journal").read_text() == content


def test_search_after_a_kill_in_the_middle_of_a_line_goes_on(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "units=4..64", search=SearchName.OPTUNA, trials=3)
    expected = sweep(config, quiet)
    journal = config.out / "optuna.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    # A lock of the journal's own, as a kill leaves it.
    (config.out / "optuna.journal.lock").symlink_to(journal)
    fitted = count_fits(monkeypatch)
    again = sweep(config, quiet)
    assert fitted == []
    assert [row["name"] for row in again["trials"]] == [row["name"] for row in expected["trials"]]


def test_search_in_a_moved_folder_with_a_moved_store_goes_on_with_its_study(
    own_store: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sweep(own_store, tmp_path / "out", "units=4..64", search=SearchName.OPTUNA, trials=3)
    sweep(config, quiet)
    (tmp_path / "moved").mkdir()
    for name in ("out", "store"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    fitted = count_fits(monkeypatch)
    sweep(replace(config, out=tmp_path / "moved" / "out", store=tmp_path / "moved" / "store"), quiet)
    assert fitted == []
