"""Whether a folder holds this very run already: the same options, on the same features of the same pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from base.errors import HeadstartError
from train_head.runs.read import Run
from train_head.runs.record import DEFAULTS, PLACES, RUN_FILE, RunRecord, recover_run
from train_head.runs.tables import RunExample

_NOT_COMPARED = {*PLACES, "overwrite", "no_report", "tensorboard"}
_NOT_SETTLED = ("cut", "")
"""What older runs have where the store had one cut alone; the fingerprint has it too."""


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds a run, after completing an interrupted replacement.

    Raises:
        HeadstartError: it is no folder, or it holds other files alone.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise HeadstartError(folder, "a folder for the run", "something else", "Give another --run (RUN=)")
    recover_run(folder)
    if os.path.lexists(folder / RUN_FILE):
        return True
    # In a mount point, the lock, what a kill left, and what a file system has in its root.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(name != "lost+found" and not name.startswith(".") for name in names):
        raise HeadstartError(folder, "an empty folder", "a folder with other files", "Give another --run (RUN=)")
    return False


def list_differences(run: Run, record: RunRecord, examples: Sequence[RunExample]) -> list[str]:
    """List how a run differs from the one that is asked for; empty where it is this very run, and all of it.

    Raises:
        HeadstartError: one of its files is not the one that was written.
    """
    asked = record.config
    differences = [
        f"{name} {_show(theirs)} instead of {_show(asked.get(name))}"
        for name, theirs in {**DEFAULTS, **run.record.config}.items()
        if name not in _NOT_COMPARED and theirs != asked.get(name) and (name, theirs) != _NOT_SETTLED
    ]
    if run.record.fingerprint != record.fingerprint:
        differences.append("features of another fingerprint")
    if differences:
        return differences
    run.check_files()
    if set(run.read_examples()) != set(examples):
        return ["other pictures"]
    return ["other views of the pictures"] if run.record.views_sha256 != record.views_sha256 else []


def _show(value: object) -> str:
    return "nothing" if value is None else str(value)
