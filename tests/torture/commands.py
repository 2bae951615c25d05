"""What is tortured of stage two: commands that write over an earlier result, and what must be there afterwards."""

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
from features.store import FeatureStore
from tests.pictures import fill_folder
from tests.torture.replacing import Kind, inspect_target
from tests.torture.stand_in import SIZE
from tests.train_head.synthetic import list_paths, make_store
from train_head.export.write import describe_target
from train_head.reduction import cache
from train_head.runs.read import Run
from train_head.runs.record import CURVES_FILE, METRICS_FILE, REPORT_FILE, recover_run

NOTHING, OLD, NEW = "nothing", "old", "new"
THESIS = "thesis.txt"
"""A file of the user's."""
HEAD_OPTIONS = ["--solver", "reduced", "--epochs", "2", "--batch-size", "8", "--learning-rate", "0.01"]
OLD_UNITS, NEW_UNITS = 4, 5
COUNTS = {"train/cats": 6, "train/dogs": 6, "validation/cats": 4, "validation/dogs": 4, "test/cats": 2, "test/dogs": 2}


@dataclass(frozen=True)
class Workload:
    """A command in a folder of its own."""

    command: Sequence[str]
    """A module and its arguments; `WORK` in them is the folder."""
    prepare: Callable[[Path], None]
    """Make what is there before the command."""
    inspect: Callable[[Path], str]
    """Return which result is there, the old or the new; raise where it is not whole."""
    target: str
    """What the command writes; a user's file is in it if it is a folder, and beside it."""
    start: str = OLD
    """What is there before the command."""
    num_kills: int = 30
    num_errors: int = 2
    """How many of the ways to fail are tried at each call, in turn; with all of them, also each signal at each call."""
    call_step: int = 1
    """Of a command that does another's work twice, every second call."""
    needs_process: bool = False
    """Whether a command that gets a signal runs in a process of its own, not in a fork of one that is warm."""


def fill_in(command: Sequence[str], work: Path) -> list[str]:
    """Return a command's words for a folder."""
    return [word.replace("WORK", str(work)) for word in command]


def run_command(command: Sequence[str], work: Path) -> None:
    """Run a command in this process as `python -m` does; it ends in SystemExit."""
    sys.argv = fill_in(command, work)
    # By this the command recognises what an interrupted one left in derived/.
    cache._STARTED = time.time()
    # The modules are imported already, also the one that is run.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def run_to_end(command: Sequence[str], work: Path) -> None:
    """Run a command, and go on after it; raise AssertionError where it does not succeed."""
    with patch.object(process, "exit_process", sys.exit):
        try:
            run_command(command, work)
        except SystemExit as end:
            require(not end.code, f"{command[0]} ended with {end.code}")


def train(*options: str, module: str = "train_head", units: int = OLD_UNITS, run: str = "WORK/run") -> list[str]:
    """List the words of a training."""
    return [module, "--store", "WORK/store", "--run", run, *HEAD_OPTIONS, "--units", str(units), *options]


def make_plain_store(work: Path) -> None:
    """Make a store of made-up features."""
    make_store(work / "store", list_paths(COUNTS))


def make_run(work: Path) -> None:
    """Make a store and the old run."""
    make_plain_store(work)
    run_to_end(train(), work)


def inspect_run(folder: Path) -> int | None:
    """Read everything of a run; return how many units it has, or None where there is none.

    An interrupted replacement is completed first, as by each command that reads the run.
    """
    recover_run(folder)
    if not folder.exists() or {entry.name for entry in folder.iterdir()} <= {THESIS}:
        return None
    run = Run(folder)
    units = len(run.read_head().hidden_bias)
    metrics, history, predictions = run.read_metrics(), run.read_history(), run.read_predictions()
    num_validation = sum(example.split == "validation" for example in run.read_examples())
    num_right = sum(found.label == found.predicted for found in predictions)
    require(run.record.config["units"] == units, "run.json is of another head")
    require(len(history) == metrics["epochs"], "history.csv is of another fit")
    require(len(predictions) == num_validation, "predictions.csv is of other pictures")
    require(num_right / num_validation == metrics["val_accuracy"], "predictions.csv is of another head")
    inspect_page(folder / REPORT_FILE)
    inspect_picture(folder / CURVES_FILE)
    return units


def inspect_page(path: Path) -> None:
    """Require a page to be whole where there is one."""
    require(not path.exists() or path.read_text().rstrip().endswith("</html>"), f"{path} is not whole")


def inspect_picture(path: Path) -> None:
    """Require a picture to be whole where there is one."""
    if path.exists():
        Image.open(path).load()


def require(is_so: bool, what: str) -> None:
    """Raise AssertionError where something is not so."""
    if not is_so:
        raise AssertionError(what)


def _name(units: int | None) -> str:
    return {None: NOTHING, OLD_UNITS: OLD, NEW_UNITS: NEW}[units]


def _inspect_train(work: Path) -> str:
    return _name(inspect_run(work / "run"))


def _inspect_report(work: Path) -> str:
    require(inspect_run(work / "run") == OLD_UNITS, "the run is another")
    has_test = "test" in Run(work / "run").read_metrics()
    page = (work / "run" / REPORT_FILE).read_text()
    require(hash_file(work / "run" / METRICS_FILE) in page, "the page is of other metrics")
    return NEW if has_test else OLD


def compare(*options: str, units: int = OLD_UNITS) -> list[str]:
    """List the words of a comparison."""
    return train(*options, module="train_head.compare", units=units, run="WORK/compare")


def _prepare_compare(work: Path) -> None:
    make_plain_store(work)
    run_to_end(compare(), work)


def _inspect_compare(work: Path) -> str:
    units = {inspect_run(work / "compare" / name) for name in ("without-dropout", "with-dropout-0.5")}
    require(len(units) == 1, f"runs of {units} units beside each other")
    inspect_picture(work / "compare" / "compare.png")
    return _name(units.pop())


def sweep(rates: str) -> list[str]:
    """List the words of a sweep; of a small rate every head is worse."""
    options = ["--units", str(OLD_UNITS), "--try", f"learning_rate={rates}"]
    return ["train_head.sweep", "--store", "WORK/store", "--out", "WORK/sweep", *HEAD_OPTIONS, *options]


def _prepare_sweep(work: Path) -> None:
    make_plain_store(work)
    run_to_end(sweep("0.000001"), work)


def _inspect_sweep(work: Path) -> str:
    folder = work / "sweep"
    recover_run(folder / "best")
    with (folder / "sweep.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    for row in rows:
        require(inspect_run(folder / row["run"]) is not None, f"no run {row['run']}")
    require(inspect_run(folder / "best") is not None, "no best run")
    best = Run(folder / "best").record.config["learning_rate"]
    require(float(rows[0]["learning_rate"]) == best, f"best/ is of rate {best}, the table's first row is {rows[0]}")
    return NEW if len(rows) == 2 else OLD


def _inspect_pack(work: Path) -> str:
    if not (work / "packed.h5").exists():
        return NOTHING
    store = FeatureStore(work / "packed.h5")
    store.read(store.examples)
    return NEW if len(store.examples) == sum(COUNTS.values()) else OLD


def _prepare_export(work: Path) -> None:
    for name, other in ((OLD, "dogs"), (NEW, "owls")):
        for side, start, count in (("train", 0, 6), ("validation", 100, 4)):
            fill_folder(work / name / "pictures", {f"{side}/cats": count, f"{side}/{other}": count}, start)
        pictures, store = f"WORK/{name}/pictures", f"WORK/{name}/store"
        size = ["--weights", "random", "--image-size", str(SIZE)]
        run_to_end(["extract", "--images", pictures, "--store", store, *size], work)
        options = ["--store", store, "--run", f"WORK/{name}/run", *HEAD_OPTIONS, "--no-report"]
        run_to_end(["train_head", *options], work)
    run_to_end(export(OLD), work)


def export(name: str) -> list[str]:
    """List the words of an export."""
    return ["train_head.export", "--run", f"WORK/{name}/run", "--out", "WORK/model"]


def _inspect_export(work: Path) -> str:
    recover_target(describe_target(work / "model"))
    labels = (work / "model/labels.txt").read_text().split()
    with zipfile.ZipFile(work / "model/model.keras") as archive:
        require(archive.testzip() is None, "model.keras is damaged")
        card: dict[str, Any] = json.loads(archive.read("headstart.json"))
    require(card["classes"] == labels, f"a model of {card['classes']} beside labels {labels}")
    return {"dogs": OLD, "owls": NEW}[labels[1]]


def replace(kind: str, target: str) -> Workload:
    """Make the workload that only replaces a target."""
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
