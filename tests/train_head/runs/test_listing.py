"""The list of runs below a folder."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from base.errors import UsageError
from base.terminal import Console, ConsoleOptions
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.processes import run_process
from tests.train_head.synthetic import make_small_card
from tests.train_head.training import make_config
from train_head.runs.card import CARD_NAME, MODEL_FILE
from train_head.runs.listing import RunsConfig, runs
from train_head.runs.read import Run
from train_head.runs.record import METRICS_FILE, RUN_FILE
from train_head.train import train_head


@pytest.fixture(scope="module")
def _finished(two_classes: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    run = tmp_path_factory.mktemp("listing") / "run"
    train_head(make_config(two_classes, run, epochs=2), quiet)
    return run


@pytest.fixture
def run(_finished: Path, tmp_path: Path) -> Path:
    """Copy of a run at `work/run`."""
    return shutil.copytree(_finished, tmp_path / "work" / "run")


def write_export(folder: Path, head: str) -> None:
    """Write an exported model that contains only a card."""
    folder.mkdir()
    with zipfile.ZipFile(folder / MODEL_FILE, "w") as archive:
        archive.writestr(CARD_NAME, json.dumps(asdict(replace(make_small_card(2), run=head))))


def list_folders(folder: Path, console: Console) -> list[str]:
    return [run["folder"] for run in runs(RunsConfig(folder), console)["runs"]]


@pytest.mark.unit
def test_runs_lists_each_run_with_its_options_oldest_first(
    two_classes: FeatureStore, run: Path, quiet: Console
) -> None:
    first = Run(run).metrics
    train_head(make_config(two_classes, run, epochs=2, units=9), quiet)
    # Both runs may end in the same second: make the earlier one older.
    (earlier,) = run.parent.glob("run-*")
    record = replace(Run(earlier).record, created="2020-01-02T03:04:05+00:00")
    (earlier / RUN_FILE).write_bytes(record.format())
    kept, new = runs(RunsConfig(run.parent), quiet)["runs"]
    assert (kept["folder"], new["folder"]) == (earlier.name, "run")
    assert kept["created"] == record.created
    assert (kept["num_pictures"], kept["val_accuracy"]) == (31, first["val_accuracy"])
    assert (kept["head"], kept["exports"]) == (first["head"], [])
    options = {"solver": "reduced", "epochs": 2, "batch_size": 8, "dropout": 0.3, "learning_rate": 0.01, "seed": 3}
    assert kept["options"] == options | {"units": 8}
    assert new["options"] == options | {"units": 9}


@pytest.mark.unit
def test_runs_searches_three_levels_but_no_hidden_folders_or_links(run: Path, quiet: Console) -> None:
    work = run.parent / "search"
    for name in ("a/b/run", "a/b/c/run", ".hidden/run"):
        shutil.copytree(run, work / name)
    (work / "link").symlink_to(run)
    assert list_folders(work, quiet) == ["a/b/run"]


@pytest.mark.unit
def test_runs_below_an_unreadable_folder_lists_the_others(run: Path, quiet: Console) -> None:
    locked = run.parent / "locked"
    locked.mkdir()
    real = os.scandir

    def scan(path: Path) -> object:
        if path == locked:
            raise PermissionError
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.scandir", scan)
        assert list_folders(run.parent, quiet) == ["run"]


@pytest.mark.unit
def test_runs_lists_the_exports_of_the_run_with_the_same_head(run: Path, quiet: Console) -> None:
    other = shutil.copytree(run, run.parent / "other")
    (other / RUN_FILE).write_bytes(replace(Run(other).record, head="0" * 64).format())
    write_export(run.parent / "model", Run(run).record.head)
    write_export(run.parent / "older", "")
    (run.parent / "damaged").mkdir()
    (run.parent / "damaged" / MODEL_FILE).write_text("no archive")
    listed = runs(RunsConfig(run.parent), quiet)["runs"]
    assert {run["folder"]: run["exports"] for run in listed} == {"run": ["model"], "other": []}


@pytest.mark.unit
@pytest.mark.parametrize(
    "metrics", [b"{}", b'{"val_accuracy": 0.5}', b'{"val_accuracy": 0.5, "num_train": [], "num_validation": 1}']
)
def test_runs_with_a_damaged_run_warns_and_lists_the_others(
    run: Path, quiet: Console, capsys: pytest.CaptureFixture[str], metrics: bytes
) -> None:
    damaged = shutil.copytree(run, run.parent / "damaged")
    (damaged / METRICS_FILE).write_bytes(metrics)
    (damaged / RUN_FILE).write_bytes(replace(Run(damaged).record, files={}, run_version=1).format())
    assert list_folders(run.parent, quiet) == ["run"]
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(damaged) in warning


@pytest.mark.unit
def test_runs_without_a_folder_is_wrong_usage(tmp_path: Path, quiet: Console) -> None:
    with raises(UsageError, where=tmp_path / "none"):
        runs(RunsConfig(tmp_path / "none"), quiet)


@pytest.mark.unit
def test_runs_of_a_folder_without_runs_lists_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs(RunsConfig(tmp_path), Console()) == {"runs": []}
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(tmp_path) in captured.err


@pytest.mark.unit
def test_runs_prints_a_row_for_each_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = runs(RunsConfig(run.parent), Console(ConsoleOptions(json=True)))["runs"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{found['val_accuracy']:.4f}" in captured.err


def test_runs_command_imports_no_tensorflow(run: Path) -> None:
    done = run_process("train_head.runs", run.parent, "--json")
    assert (done.status, done.imported) == (0, [])
    assert [run["folder"] for run in json.loads(done.out)["runs"]] == ["run"]
