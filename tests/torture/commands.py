"""Workloads of the torture test of commands: commands that replace an earlier result, and checks of the results."""

from __future__ import annotations

import csv
import json
import runpy
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image

from base import process
from base.files import hash_file
from base.replace import recover_target
from features import derived
from features.store import FeatureStore
from tests.pictures import fill_folder
from tests.torture.replacing import Kind, inspect_target
from tests.torture.small_backbone import SIZE
from tests.train_head.synthetic import list_paths, make_store
from train_head.export.target import describe_target
from train_head.runs.read import Run
from train_head.runs.record import CURVES_FILE, METRICS_FILE, REPORT_FILE, recover_run

NOTHING, OLD, NEW = "nothing", "old", "new"
USER_FILE = "user_file.txt"
"""Name of a file that belongs to the user, which no command may change."""
HEAD_OPTIONS = ["--solver", "reduced", "--epochs", "2", "--batch-size", "8", "--learning-rate", "0.01"]
OLD_UNITS, NEW_UNITS = 4, 5
COUNTS = {"train/cats": 6, "train/dogs": 6, "validation/cats": 4, "validation/dogs": 4, "test/cats": 2, "test/dogs": 2}


@dataclass(frozen=True)
class Workload:
    """Command in a folder, with a check of its result."""

    command: Sequence[str]
    """Module and arguments; `WORK` is replaced by the folder."""
    prepare: Callable[[Path], None]
    """Function that creates the files needed by the command."""
    inspect: Callable[[Path], str]
    """Function that returns which result exists; raises an error for an incomplete one."""
    target: str
    """Output of the command; the user's file is beside it and, if it is a folder, in it."""
    start: str = OLD
    """Result that exists before the command."""
    num_kills: int = 30
    num_errors: int = 2
    """Number of kinds of errors to try at each call.

    If it is the number of all kinds, SIGKILL and one other signal are tried at each call too; otherwise, one signal at
    every third call.
    """
    call_step: int = 1
    """Step between the calls at which faults are tried; 2 for a command that repeats the work of another one."""
    needs_process: bool = False
    """Whether signals are tried in a new process, instead of a fork of a prepared one."""


def fill_in(command: Sequence[str], work: Path) -> list[str]:
    """Return the arguments of a command for a folder."""
    return [argument.replace("WORK", str(work)) for argument in command]


def run_command(command: Sequence[str], work: Path) -> None:
    """Run a command in this process as `python -m` does; it raises SystemExit at the end."""
    sys.argv = fill_in(command, work)
    # The command compares this time with the age of files that an interrupted one left in derived/.
    derived._STARTED = time.time()
    # runpy warns that the module is imported already.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def run_to_end(command: Sequence[str], work: Path) -> None:
    """Run a command to its end; raise AssertionError if it fails."""
    with patch.object(process, "exit_process", sys.exit):
        try:
            run_command(command, work)
        except SystemExit as end:
            require(not end.code, f"{command[0]} ended with {end.code}")


def train(*options: str, module: str = "train_head", units: int = OLD_UNITS, run: str = "WORK/run") -> list[str]:
    """Return the arguments of a training command."""
    return [module, "--store", "WORK/store", "--run", run, *HEAD_OPTIONS, "--units", str(units), *options]


def make_plain_store(work: Path) -> None:
    """Create a store of synthetic features."""
    make_store(work / "store", list_paths(COUNTS))


def make_run(work: Path) -> None:
    """Create a store and the old run."""
    make_plain_store(work)
    run_to_end(train(), work)


def inspect_run(folder: Path) -> int | None:
    """Read and check a run, and return its number of units; return None if there is no run.

    An interrupted replacement is completed first, as by every command that reads the run.
    """
    recover_run(folder)
    if not folder.exists() or {entry.name for entry in folder.iterdir()} <= {USER_FILE}:
        return None
    run = Run(folder)
    units = len(run.read_head().input_bias)
    metrics, history, predictions = run.read_metrics(), run.read_history(), run.read_predictions()
    num_validation = sum(example.split == "validation" for example in run.read_examples())
    num_right = sum(found.label == found.predicted for found in predictions)
    require(run.record.config["units"] == units, "run.json belongs to another head")
    require(len(history) == metrics["epochs"], "history.csv belongs to another fit")
    require(len(predictions) == num_validation, "predictions.csv has other pictures")
    require(num_right / num_validation == metrics["val_accuracy"], "predictions.csv belongs to another head")
    inspect_page(folder / REPORT_FILE)
    inspect_picture(folder / CURVES_FILE)
    return units


def inspect_page(path: Path) -> None:
    """Check that a page, if it exists, is complete."""
    require(not path.exists() or path.read_text().rstrip().endswith("</html>"), f"{path} is incomplete")


def inspect_picture(path: Path) -> None:
    """Check that a picture, if it exists, is complete."""
    if path.exists():
        Image.open(path).load()


def require(condition: bool, violation: str) -> None:
    """Raise AssertionError with a description unless a condition is true."""
    if not condition:
        raise AssertionError(violation)


def _name(units: int | None) -> str:
    return {None: NOTHING, OLD_UNITS: OLD, NEW_UNITS: NEW}[units]


def _inspect_train(work: Path) -> str:
    return _name(inspect_run(work / "run"))


def _inspect_report(work: Path) -> str:
    require(inspect_run(work / "run") == OLD_UNITS, "another run")
    has_test = "test" in Run(work / "run").read_metrics()
    page = (work / "run" / REPORT_FILE).read_text()
    require(hash_file(work / "run" / METRICS_FILE) in page, "the page has other metrics")
    return NEW if has_test else OLD


def compare(*options: str, units: int = OLD_UNITS) -> list[str]:
    """Return the arguments of a comparison command."""
    return train(*options, module="train_head.compare", units=units, run="WORK/compare")


def _prepare_compare(work: Path) -> None:
    make_plain_store(work)
    run_to_end(compare(), work)


def _inspect_compare(work: Path) -> str:
    units = {inspect_run(work / "compare" / name) for name in ("without-dropout", "with-dropout-0.5")}
    require(len(units) == 1, f"runs with different numbers of units, {units}")
    inspect_picture(work / "compare" / "compare.png")
    return _name(units.pop())


def sweep(rates: str) -> list[str]:
    """Return the arguments of a sweep command; heads with a lower learning rate are worse."""
    options = ["--units", str(OLD_UNITS), "--try", f"learning_rate={rates}"]
    return ["train_head.sweep", "--store", "WORK/store", "--out", "WORK/sweep", *HEAD_OPTIONS, *options]


def _prepare_sweep(work: Path) -> None:
    make_plain_store(work)
    run_to_end(sweep("0.000001"), work)


def _inspect_sweep(work: Path) -> str:
    folder = work / "sweep"
    recover_run(folder / "best")
    with (folder / "sweep.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"]]
    for row in rows:
        require(inspect_run(folder / row["run"]) is not None, f"no run {row['run']}")
    require(inspect_run(folder / "best") is not None, "no best run")
    best = Run(folder / "best").record.head
    require(Run(folder / rows[0]["run"]).record.head == best, f"best/ has another head than the first row, {rows[0]}")
    return NEW if sum(row["status"] == "done" for row in rows) == 2 else OLD


def _inspect_pack(work: Path) -> str:
    if not (work / "packed.h5").exists():
        return NOTHING
    store = FeatureStore(work / "packed.h5")
    store.read(store.examples)
    return NEW if len(store.examples) == sum(COUNTS.values()) else OLD


def _prepare_export(work: Path) -> None:
    for name, other in ((OLD, "dogs"), (NEW, "owls")):
        for split, start, count in (("train", 0, 6), ("validation", 100, 4)):
            fill_folder(work / name / "pictures", {f"{split}/cats": count, f"{split}/{other}": count}, start)
        pictures, store = f"WORK/{name}/pictures", f"WORK/{name}/store"
        size = ["--weights", "random", "--image-size", str(SIZE)]
        run_to_end(["extract", "--images", pictures, "--store", store, *size], work)
        options = ["--store", store, "--run", f"WORK/{name}/run", *HEAD_OPTIONS, "--no-report"]
        run_to_end(["train_head", *options], work)
    run_to_end(export(OLD), work)


def export(name: str) -> list[str]:
    """Return the arguments of an export command."""
    return ["train_head.export", "--run", f"WORK/{name}/run", "--out", "WORK/model"]


def _inspect_export(work: Path) -> str:
    recover_target(describe_target(work / "model"))
    labels = (work / "model/labels.txt").read_text().split()
    with zipfile.ZipFile(work / "model/model.keras") as archive:
        require(archive.testzip() is None, "model.keras is damaged")
        card: dict[str, Any] = json.loads(archive.read("headstart.json"))
    require(card["classes"] == labels, f"a model with classes {card['classes']} and labels {labels}")
    return {"dogs": OLD, "owls": NEW}[labels[1]]


def replace(kind: str, target: str) -> Workload:
    """Return a workload that only replaces a target."""
    command = ["tests.torture.replacing", kind]

    def inspect(work: Path) -> str:
        (text,) = inspect_target(work / target)
        return text

    def prepare(work: Path) -> None:
        run_to_end([*command, OLD, f"WORK/{target}"], work)

    return Workload([*command, NEW, f"WORK/{target}"], prepare, inspect, target, num_errors=5)


WORKLOADS = {
    **{f"replace-{kind}": replace(kind, "target") for kind in Kind},
    "pack": Workload(
        ["features", "pack", "WORK/store", "WORK/packed.h5"],
        make_plain_store,
        _inspect_pack,
        "packed.h5",
        NOTHING,
        num_errors=5,
    ),
    "train": Workload(train(units=NEW_UNITS), make_plain_store, _inspect_train, "run", NOTHING),
    "overwrite": Workload(train("--overwrite", units=NEW_UNITS), make_run, _inspect_train, "run"),
    "report": Workload(["train_head.report", "--run", "WORK/run", "--test"], make_run, _inspect_report, "run"),
    "sweep": Workload(sweep("0.000001,0.05"), _prepare_sweep, _inspect_sweep, "sweep", num_errors=1, call_step=2),
    "compare": Workload(
        compare("--overwrite", units=NEW_UNITS),
        _prepare_compare,
        _inspect_compare,
        "compare",
        num_errors=1,
        call_step=2,
    ),
    "export": Workload(export(NEW), _prepare_export, _inspect_export, "model", num_kills=20, needs_process=True),
}
