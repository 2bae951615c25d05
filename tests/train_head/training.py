"""Helpers for tests of whole trainings: small configs, the command in another process, and older runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from features.store import FeatureStore
from train_head.config import OptimizerName, SolverName, TrainConfig
from train_head.runs.record import RunRecord
from train_head.runs.write import write_record

ROOT = Path(__file__).parents[2]
NEW_OPTIONS = ("rank", "l2", "momentum", "class_weight", "patience", "repeats", "folds")
HEAVY = ("tensorflow", "keras", "sklearn", "scipy", "matplotlib")
PRINT_IMPORTS = f"""
import atexit, runpy, sys
sys.argv = ["train_head", *sys.argv[1:]]
atexit.register(lambda: print("imported:", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr))
runpy.run_module("train_head", run_name="__main__", alter_sys=True)
"""
UNSTABLE: dict[str, Any] = {"epochs": 40, "learning_rate": 0.3, "l2": 5.0, "optimizer": OptimizerName.SGD}
"""Each step multiplies the kernels by about 1 - 2 * 0.3 * 5 = -2, so that their squares overflow after some epochs."""
SGD_CONFIG = TrainConfig(
    Path("store"),
    Path("run"),
    epochs=8,
    batch_size=5,
    units=12,
    dropout=0.0,
    learning_rate=0.02,
    optimizer=OptimizerName.SGD,
    seed=7,
)
"""Options of a small head without dropout, whose fit a test can repeat step by step."""


SMALL_FIT: dict[str, Any] = {
    "solver": SolverName.REDUCED,
    "epochs": 6,
    "batch_size": 8,
    "units": 8,
    "learning_rate": 0.01,
    "dropout": 0.3,
    "seed": 3,
    "no_report": True,
}
"""Options of a short fit of a small head."""
RUN_FILES = [
    "examples.csv",
    "head.npz",
    "history.csv",
    "local.json",
    "metrics.json",
    "outliers.npz",
    "predictions.csv",
    "run.json",
]
"""Files of a run without a report."""


def make_config(store: FeatureStore | Path, run: Path, **options: Any) -> TrainConfig:
    return TrainConfig(store if isinstance(store, Path) else store.path, run, **(SMALL_FIT | options))


def run_command(store: FeatureStore, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m train_head --solver reduced` in another process, and print the heavy packages it imported."""
    small = ["--epochs", "3", "--units", "4", "--batch-size", "8"]
    paths = ["--store", str(store.path), "--run", str(run)]
    return subprocess.run(
        [sys.executable, "-c", PRINT_IMPORTS, *paths, "--solver", "reduced", *small, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def remove_options(run: Path, names: tuple[str, ...]) -> None:
    """Remove options from run.json, as in a run that is older than the options."""
    record = json.loads((run / "run.json").read_text())
    for name in names:
        del record["config"][name]
    write_record(run, RunRecord(**record))


def rewrite_manifest(run: Path) -> None:
    """Write the manifest of a run again, with the digests of its current files."""
    remove_options(run, ())
