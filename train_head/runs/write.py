"""Writing of runs: files and their digests go into a staging folder, which then replaces the run as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from base import system
from base.files import hash_file, name_beside, write_durably
from base.replace import hold_target, replace_folder
from base.target import check_target
from base.terminal import Console
from features.store import FeatureStore
from train_head.data.split import Split
from train_head.runs.read import Run
from train_head.runs.record import (
    DATA_FILES,
    EXAMPLES_FILE,
    HEAD_FILE,
    HISTORY_FILE,
    LABEL_ISSUES_FILE,
    LOCAL_FILE,
    LOGITS_FILE,
    METRICS_FILE,
    PATH_OPTIONS,
    PREDICTIONS_FILE,
    PROBABILITIES_FILE,
    REDUCTION_FILE,
    REPORT_FILE,
    RUN_ENTRIES,
    RUN_FILE,
    RUN_VERSION,
    RunRecord,
    describe_run_target,
    read_record,
)
from train_head.runs.tables import (
    format_examples,
    format_history,
    format_predictions,
    has_separate_probabilities,
    list_run_examples,
)
from train_head.solvers import Fit

MAX_UP, MAX_DOWN = 3, 2
"""Largest numbers of folders up and down in a relative path in run.json; a longer path would reveal local paths."""


def write_run(
    folder: Path, record: RunRecord, split: Split, store: FeatureStore | None, fit: Fit, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a run into an empty staging folder, and return its metrics.

    Without a store the run has no local paths and no names of shards.
    """
    fit.weights.save(folder / HEAD_FILE)
    head = hash_file(folder / HEAD_FILE)
    if fit.reduction:
        record = replace(record, reduction=fit.reduction.key, rank=fit.reduction.rank)
        fit.reduction.expansion.save(folder / REDUCTION_FILE)
        np.save(folder / LOGITS_FILE, fit.reduction.validation_logits, allow_pickle=False)
    written = {"head": head, **metrics}
    write_metrics(folder, written)
    (folder / HISTORY_FILE).write_bytes(format_history(fit.history))
    (folder / EXAMPLES_FILE).write_bytes(format_examples(list_run_examples(split, store)))
    if store:
        _write_json(folder / LOCAL_FILE, {"store": str(store.path.resolve()), "images": store.images_folder})
    predictions = format_predictions(
        split.validation, record.classes, fit.validation_probabilities, is_multi_label=record.is_multi_label
    )
    (folder / PREDICTIONS_FILE).write_bytes(predictions)
    if has_separate_probabilities(record.classes):
        np.save(folder / PROBABILITIES_FILE, fit.validation_probabilities, allow_pickle=False)
    write_record(folder, replace(record, head=head, created=datetime.now(UTC).isoformat(timespec="seconds")))
    return written


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json into a staging folder."""
    _write_json(folder / METRICS_FILE, metrics)


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json with the digests of the data files in a staging folder."""
    files = {name: hash_file(folder / name) for name in DATA_FILES if (folder / name).exists()}
    _write(folder / RUN_FILE, replace(record, files=files).format())


def copy_run(source: Run, folder: Path) -> RunRecord:
    """Copy a run into a staging folder, and return the record to write there.

    Files are hard links where the file system supports them. A version-1 run gets a record of the current version.

    Raises:
        HeadstartError: a file of the run is damaged.
    """
    source.check_files()
    for name in RUN_ENTRIES:
        path = source.folder / name
        if path.is_dir():
            shutil.copytree(path, folder / name, copy_function=_link)
        elif path.exists():
            _link(path, folder / name)
    record = source.record
    if record.run_version > 1:
        return replace(record, run_version=RUN_VERSION)
    _write_json(folder / LOCAL_FILE, {"store": str((source.folder.resolve() / record.store).resolve()), "images": ""})
    config = {name: value for name, value in record.config.items() if name not in PATH_OPTIONS}
    created = datetime.fromtimestamp((source.folder / RUN_FILE).stat().st_mtime, UTC).isoformat(timespec="seconds")
    store = shorten_path(Path(record.store), source.folder)
    return replace(record, config=config, store=store, created=created, run_version=RUN_VERSION)


@contextmanager
def rewrite_run(run: Run) -> Iterator[Path]:
    """Yield a copy of a run; it replaces the run at the end of the `with` statement.

    Raises:
        HeadstartError: another run has replaced this one, the run is locked, or it cannot be written.
    """
    with replace_folder(describe_run_target(run.folder)) as replacement:
        run.require_unchanged()
        record = copy_run(run, replacement.staging)
        # The record is written before the yield too, so that the caller can make a report from the copy.
        write_record(replacement.staging, record)
        yield replacement.staging
        write_record(replacement.staging, record)
        replacement.commit()


def require_writable(run: Run) -> None:
    """Raise HeadstartError if a run cannot be written now, so that a command fails before its work."""
    with hold_target(describe_run_target(run.folder)):
        pass


def write_page(run: Run, page: bytes, label_issues: bytes) -> Path:
    """Write a run's report.html and label_issues.csv, and return the path of the report.

    Raises:
        HeadstartError: the run was replaced or is locked.
    """
    path, target = run.folder / REPORT_FILE, describe_run_target(run.folder)
    with hold_target(target):
        check_target(target)
        run.require_unchanged()
        write_durably(run.folder / LABEL_ISSUES_FILE, label_issues)
        write_durably(path, page)
    return path


@contextmanager
def warn_on_failure(name: str, console: Console) -> Iterator[None]:
    """Print a warning if an optional result of finished work cannot be written, and continue without it."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).removesuffix(".")
        console.warning(f"could not write {name}: {reason}. All other results are kept.")


def name_archive(folder: Path, run: Path) -> str:
    """Return an unused new name for a folder: its name with the date of a run, such as `run-2026-11-25-140327`."""
    place = folder.resolve()
    try:
        made = datetime.fromisoformat(read_record(run, checks_digest=False).created).astimezone()
    except ValueError:
        made = datetime.fromtimestamp((run / RUN_FILE).stat().st_mtime).astimezone()
    name = f"-{made:%Y-%m-%d-%H%M%S}"
    ends = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    names = (name_beside(place, "", end).name for end in ends)
    # A mount point cannot be renamed: its entries are kept in a folder inside it.
    return next(name for name in names if not any(os.path.lexists(parent / name) for parent in (place.parent, place)))


def shorten_path(path: Path, folder: Path) -> str:
    """Return a path relative to a folder if it is within `MAX_UP` and `MAX_DOWN`, else its name alone."""
    place, base = path.resolve(), folder.resolve()
    if place.anchor != base.anchor:
        # On Windows, these are two drives.
        return path.name
    near = Path(os.path.relpath(place, base))
    num_up = near.parts.count("..")
    is_near = num_up <= MAX_UP and len(near.parts) - num_up <= MAX_DOWN
    return near.as_posix() if is_near and os.path.commonpath([place, base]) != place.anchor else path.name


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    _write(path, (json.dumps(values, indent=2) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    # The file may have other hard links, which must keep their content.
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        system.link(source, target)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)
