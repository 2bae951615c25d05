"""Command line of what was trained so far: `python -m train_head.runs`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from base.errors import HeadstartError, UsageError
from base.terminal import Console, make_printable

MAX_DEPTH = 3
MODEL_FILE = "model.keras"
_NOT_SHOWN = {"cut", "views", "no_report", "tensorboard", "overwrite"}
"""Options that are settled for every run, or change nothing about the head."""


@dataclass(frozen=True)
class RunsConfig:
    """Where to look."""

    folder: Annotated[Path, Argument(help=f"Looked through to {MAX_DEPTH} folders' depth.", metavar="FOLDER")] = Path(
        "work"
    )


@dataclass(frozen=True)
class ListedRun:
    """A run in the list."""

    folder: str
    """From the folder that was looked through."""
    created: str
    """When its fit ended, in UTC."""
    options: dict[str, Any]
    """Those that differ from the defaults."""
    num_pictures: int
    """Training and validation pictures together."""
    val_accuracy: float
    head: str
    """The head's digest: equal for equal heads."""
    exports: list[str]
    """The folders of its exported models, from the same folder."""


def runs(config: RunsConfig, console: Console) -> Mapping[str, Any]:
    """List the runs below a folder, oldest first: date, options, pictures, accuracy, and whether they were exported."""
    if not config.folder.is_dir():
        raise UsageError(config.folder, "a folder with runs in it", "none", "Train first, or give another folder")
    listed = list_runs(config.folder, console)
    rows: list[tuple[str, ...]] = [("run", "date", "options", "pictures", "accuracy", "exported")]
    for run in listed:
        options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in run.options.items())
        date = f"{datetime.fromisoformat(run.created).astimezone():%Y-%m-%d %H:%M}"
        exports = ", ".join(run.exports) or "no"
        accuracy = f"{run.val_accuracy:.4f}"
        texts = (run.folder, date, options or "defaults", f"{run.num_pictures:,}", accuracy, exports)
        rows.append(tuple(map(make_printable, texts)))
    console.show_table(f"{len(listed)} runs below {config.folder}", rows if listed else [])
    return {"runs": [asdict(run) for run in listed]}


def list_runs(folder: Path, console: Console) -> list[ListedRun]:
    """List the runs in and below a folder by date; a damaged one is a warning, and left out.

    Hidden folders and links are not looked into.
    """
    from train_head.runs.read import Run
    from train_head.runs.record import DEFAULTS, PLACES, RUN_FILE

    folders = list(_walk(folder, MAX_DEPTH))
    exports = _find_exports([place for place in folders if (place / MODEL_FILE).is_file()])
    listed = []
    for place in folders:
        if not os.path.lexists(place / RUN_FILE):
            continue
        try:
            run = Run(place)
            metrics = run.read_metrics()
            num_pictures = int(metrics["num_train"]) + int(metrics["num_validation"])
        except (HeadstartError, KeyError, TypeError, ValueError) as error:
            console.warn(str(error) if isinstance(error, HeadstartError) else f"{place}: no metrics of a run ({error})")
            continue
        options = {
            name: value
            for name, value in run.record.config.items()
            if name not in {*PLACES, *_NOT_SHOWN} and value != DEFAULTS.get(name)
        }
        if run.num_views > 1:
            options["views"] = run.num_views
        found = [os.path.relpath(export, folder) for export in exports.get(run.record.head, [])]
        created, accuracy = read_date(run.record.created, place / RUN_FILE), float(metrics["val_accuracy"])
        shown = os.path.relpath(place, folder)
        listed.append(ListedRun(shown, created, options, num_pictures, accuracy, run.record.head, found))
    return sorted(listed, key=lambda run: (run.created, run.folder))


def read_date(created: str, file: Path) -> str:
    """Return a run's date in UTC; of one from before runs had it, that of its file."""
    try:
        made = datetime.fromisoformat(created)
    except ValueError:
        made = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return made.astimezone(UTC).isoformat(timespec="seconds")


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if depth else []
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, depth - 1)


def _find_exports(folders: list[Path]) -> dict[str, list[Path]]:
    """Find the exported models in folders, by the digest of the run's head that their card names."""
    if not folders:
        return {}
    from train_head.export.model_file import read_card

    found: dict[str, list[Path]] = {}
    for folder in folders:
        try:
            head = read_card(folder / MODEL_FILE).run
        except HeadstartError:
            continue
        if head:
            found.setdefault(head, []).append(folder)
    return found
