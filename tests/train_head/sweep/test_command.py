"""The command line of sweeps: help, one JSON object, mistakes, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.sweeps import make_sweep
from tests.train_head.synthetic import make_store
from tests.train_head.test_command_line import run_command
from tests.train_head.training import ROOT
from train_head.sweep.__main__ import sweep

HEAVY = ("tensorflow", "keras", "sklearn", "scipy", "matplotlib", "optuna", "tensorboard")


def test_sweep_says_what_the_choice_is_worth_and_each_warning_once(
    own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A validation picture that is in training too, of which each training warns.
    store = FeatureStore(own_store)
    leak = make_leak(store, tmp_path / "leaky")
    sweep(make_sweep(leak, tmp_path / "out", "units=4,8,12"), Console())
    said = capsys.readouterr()
    assert said.err.count("byte for byte") == 1
    assert "3 heads: 3 units" in said.err
    assert "of 3 heads lie within one standard error (" in said.err
    assert "the best of 3 heads, chosen by the pictures that it is evaluated on" in said.err
    assert "sweep: 3/3 heads" in said.err
    assert "train:" not in said.err
    assert "largest class" in said.out


def make_leak(store: FeatureStore, folder: Path) -> FeatureStore:
    paths = [example.path for example in store.examples]
    hashes = [example.content_hash for example in store.examples]
    hashes[paths.index("validation/cats/00.jpg")] = hashes[paths.index("train/cats/00.jpg")]
    return make_store(folder, paths, contents=hashes)


def test_sweep_command_help_lists_every_option_of_training_and_imports_nothing_heavy() -> None:
    look = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr))
runpy.run_module("train_head.sweep", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", look, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.split() == ["imported:"]
    for option in ("--store", "--out", "--try", "--search", "--trials", "--metric", "--units", "--folds", "--json"):
        assert option in done.stdout
    assert "--run" not in done.stdout


def test_sweep_command_prints_one_json_object(two_classes: FeatureStore, tmp_path: Path) -> None:
    small = ["--epochs", "2", "--batch-size", "8", "--no-report", "--solver", "reduced"]
    paths = ["--store", str(two_classes.path), "--out", str(tmp_path / "out")]
    said = run_command("train_head.sweep", *paths, *small, "--try", "units=4,8", "--json")
    assert (said.status, said.imported) == (0, ""), said.stderr
    assert said.stdout.count("\n") == 1
    result = json.loads(said.stdout)
    assert {"trials", "baselines", "best", "num_close", "table", "plot", "seconds"} <= set(result)
    assert result["best"]["run"] == str(tmp_path / "out" / "best")
    assert result["plot"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--try", "unit=4"], "error: --try unit=4: expected NAME=VALUE,VALUE with one of batch-size, "),
        (["--try", "views=1,2"], "error: views 2: --views: expected at most 1, "),
        (["--search", "grids"], "Invalid value for '--search'"),
    ],
)
def test_sweep_command_with_a_typing_mistake_ends_with_2_and_makes_nothing(
    two_classes: FeatureStore, tmp_path: Path, options: list[str], message: str
) -> None:
    said = run_command("train_head.sweep", "--store", two_classes.path, "--out", tmp_path / "out", *options)
    assert (said.status, said.imported, said.stdout) == (2, "", "")
    assert message in said.stderr
    assert list(tmp_path.iterdir()) == []
