"""Command line of the list of runs: `python -m train_head.runs`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from base.errors import HeadstartError, UsageError
from base.terminal import Console, make_printable

MAX_DEPTH = 3
_NOT_SHOWN = {"cut", "views", "no_report", "tensorboard", "overwrite"}
"""Options that are settled for every run, or change nothing about the head."""


@dataclass(frozen=True)
class RunsConfig:
    """Where to look."""

    folder: Annotated[Path, Argument(help=f"Looked through to {MAX_DEPTH} folders' depth.", metavar="FOLDER")] = Path(
        "work"
    )


def runs(config: RunsConfig, console: Console) -> Mapping[str, Any]:
    """List the runs below a folder, oldest first: date, options, pictures, accuracy, and whether they were exported."""
    if not config.folder.is_dir():
        raise UsageError(config.folder, "a folder with runs in it", "none", "Train first, or give another folder")
    listed = list_runs(config.folder, console)
    rows: list[tuple[str, ...]] = [("run", "date", "options", "pictures", "accuracy", "exported")]
    for run in listed:
        options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in run["options"].items())
        date = f"{datetime.fromisoformat(run['created']).astimezone():%Y-%m-%d %H:%M}"
        numbers = f"{run['num_pictures']:,}", f"{run['val_accuracy']:.4f}"
        texts = (run["folder"], date, options or "defaults", *numbers, ", ".join(run["exports"]) or "no")
        rows.append(tuple(map(make_printable, texts)))
    console.show_table(f"{len(listed)} runs below {config.folder}", rows if listed else [])
    return {"runs": listed}


def list_runs(folder: Path, console: Console) -> list[dict[str, Any]]:
    """List the runs in and below a folder by date, as `--json` prints them; a damaged one is a warning, and left out.

    Hidden folders and links are not entered. `options` are those that differ from the defaults, `exports` the folders
    of the run's exported models; folders are relative.
    """
    from train_head.runs.card import MODEL_FILE, read_card
    from train_head.runs.read import Run
    from train_head.runs.record import DEFAULTS, PATH_OPTIONS, RUN_FILE

    folders = list(_walk(folder, MAX_DEPTH))
    exports: dict[str, list[str]] = {}
    for place in folders:
        if (place / MODEL_FILE).is_file():
            with suppress(HeadstartError):
                exports.setdefault(read_card(place / MODEL_FILE).run, []).append(os.path.relpath(place, folder))
    listed: list[dict[str, Any]] = []
    for place in (place for place in folders if os.path.lexists(place / RUN_FILE)):
        try:
            run = Run(place)
            metrics = run.read_metrics()
            num_pictures = int(metrics["num_train"]) + int(metrics["num_validation"])
        except (HeadstartError, KeyError, TypeError, ValueError) as error:
            console.warning(
                str(error) if isinstance(error, HeadstartError) else f"{place}: no metrics of a run ({error})"
            )
            continue
        # Runs of the first version have no date.
        written = datetime.fromtimestamp((place / RUN_FILE).stat().st_mtime, UTC)
        with suppress(ValueError):
            written = datetime.fromisoformat(run.record.created)
        options = {
            name: value
            for name, value in run.record.config.items()
            if name not in {*PATH_OPTIONS, *_NOT_SHOWN} and value != DEFAULTS.get(name)
        }
        found = {
            "folder": os.path.relpath(place, folder),
            "created": written.astimezone(UTC).isoformat(timespec="seconds"),
            "options": options | ({"views": run.num_views} if run.num_views > 1 else {}),
            "num_pictures": num_pictures,
            "val_accuracy": float(metrics["val_accuracy"]),
            "head": run.record.head,
            "exports": exports.get(run.record.head or "unknown", []),
        }
        listed.append(found)
    return sorted(listed, key=lambda run: (run["created"], run["folder"]))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if depth else []
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, depth - 1)
