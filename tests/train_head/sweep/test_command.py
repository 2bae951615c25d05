"""Command line of sweeps: help, JSON, warnings and invalid arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from base.terminal import Console, ConsoleOptions
from features.store import FeatureStore
from tests.commands import run_command
from tests.train_head.sweeps import make_sweep
from tests.train_head.synthetic import make_store
from tests.train_head.training import ROOT
from train_head.sweep.__main__ import sweep
from train_head.sweep.fit import TrialConsole

LIST_IMPORTS = """
import atexit, runpy, sys
heavy = sys.argv.pop(1).split(",")
atexit.register(lambda: print("imported:", *(name for name in heavy if name in sys.modules), file=sys.stderr))
runpy.run_module("train_head.sweep", run_name="__main__", alter_sys=True)
"""


def run_process(heavy: str, *arguments: object) -> tuple[str, list[str]]:
    """Run the command in a new process; return its output and those of the given packages that it imported."""
    command = [sys.executable, "-c", LIST_IMPORTS, heavy, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.rpartition("imported:")[2].split()


def test_sweep_prints_the_selection_and_each_warning_once(
    own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each training warns of a validation picture that is a training picture too.
    leak = make_leak(FeatureStore(own_store), tmp_path / "leaky")
    result = sweep(make_sweep(leak, tmp_path / "out", "units=4,8,12"), Console())
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    # One warning for the three trainings together, and one for the selection.
    assert sum(line.startswith("warning:") for line in lines) == 2
    assert sum(line.startswith("sweep: 3/3 heads") for line in lines) == 1
    assert not any(line.startswith("train:") for line in lines)
    assert any("units" in line and line.startswith("3 heads") for line in lines)
    best = result["best"]
    (warning,) = [line for line in lines if line.startswith("warning: val accuracy")]
    for text in (f"{best['metric']:.4f}", "the best of 3 heads", f"{result['num_close']} of 3"):
        assert text in warning
    assert "largest class" in captured.out


@pytest.mark.unit
def test_trial_console_prints_each_warning_once_and_no_info(capsys: pytest.CaptureFixture[str]) -> None:
    console = TrialConsole(ConsoleOptions())
    for message in ("first", "first", "second"):
        console.warning(message)
        console.info("progress")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]


def make_leak(store: FeatureStore, folder: Path) -> FeatureStore:
    """Copy a store and give a validation picture the content of a training picture."""
    paths = [example.path for example in store.examples]
    hashes = [example.content_hash for example in store.examples]
    hashes[paths.index("validation/cats/00.jpg")] = hashes[paths.index("train/cats/00.jpg")]
    return make_store(folder, paths, contents=hashes)


def test_sweep_command_help_lists_the_options_and_imports_no_heavy_package() -> None:
    stdout, imported = run_process("tensorflow,keras,sklearn,scipy,matplotlib,optuna,tensorboard", "--help")
    assert imported == []
    for option in ("--store", "--out", "--try", "--search", "--trials", "--metric", "--units", "--folds", "--json"):
        assert option in stdout
    assert "--run" not in stdout


def test_sweep_command_prints_one_json_object_and_imports_no_tensorflow(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    small = ["--epochs", "2", "--batch-size", "8", "--no-report", "--solver", "reduced"]
    paths = ["--store", two_classes.path, "--out", tmp_path / "out"]
    stdout, imported = run_process("tensorflow,keras", *paths, *small, "--try", "units=4,8", "--json")
    assert imported == []
    assert stdout.count("\n") == 1
    result = json.loads(stdout)
    assert {"trials", "baselines", "best", "num_close", "table", "plot", "seconds"} <= set(result)
    assert result["best"]["run"] == str(tmp_path / "out" / "best")
    assert result["plot"] is None


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        (["--try", "unit=4"], "--try unit=4", "unit"),
        (["--try", "views=1,2"], "views 2: --views", "2"),
    ],
)
def test_sweep_command_with_an_invalid_axis_exits_with_2_and_writes_nothing(
    two_classes: FeatureStore, tmp_path: Path, options: list[str], where: str, got: str
) -> None:
    paths = ["--store", two_classes.path, "--out", tmp_path / "out"]
    result = run_command("train_head.sweep.__main__", *paths, *options, "--json")
    assert result.status == 2
    assert (result.json["type"], result.json["where"], result.json["got"]) == ("UsageError", where, got)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_sweep_command_with_an_unknown_search_exits_with_2(two_classes: FeatureStore, tmp_path: Path) -> None:
    paths = ["--store", two_classes.path, "--out", tmp_path / "out"]
    result = run_command("train_head.sweep.__main__", *paths, "--search", "grids", "--json")
    assert result.status == 2
    assert "grids" in result.json["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_sweep_command_without_a_finite_head_exits_with_1_and_the_table(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    options = ["--solver", "reduced", "--optimizer", "sgd", "--units", "4", "--epochs", "2", "--no-report", "--json"]
    paths = ["--store", two_classes.path, "--out", tmp_path / "out"]
    result = run_command("train_head.sweep.__main__", *paths, *options, "--try", "learning-rate=1e38")
    assert result.status == 1
    assert (result.json["best"], [row["status"] for row in result.json["trials"]]) == (None, ["diverged"])
