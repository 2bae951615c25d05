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
from base.terminal import Console, format_count, make_printable

MAX_DEPTH = 3
_HIDDEN_OPTIONS = {"cut", "views", "no_report", "tensorboard", "overwrite"}
"""Options that are not compared with their defaults.

Training always records a value for `cut` and `views`; several of them are listed separately. The others do not affect
the head.
"""


@dataclass(frozen=True)
class RunsConfig:
    """Options of `runs`."""

    folder: Annotated[
        Path, Argument(help=f"Folder that contains runs, at most {MAX_DEPTH} levels down.", metavar="FOLDER")
    ] = Path("work")


def runs(config: RunsConfig, console: Console) -> Mapping[str, Any]:
    """List the runs below a folder, oldest first, with date, options, pictures, accuracy and exports.

    Examples:
        headstart runs
        headstart runs work --json
    """
    if not config.folder.is_dir():
        advice = "Train first, or give another folder"
        raise UsageError(config.folder, "a folder that contains runs", "no such folder", advice)
    listed = list_runs(config.folder, console)
    rows: list[tuple[str, ...]] = [("run", "date", "options", "pictures", "accuracy", "loss", "exported")]
    for run in listed:
        options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in run["options"].items())
        date = f"{datetime.fromisoformat(run['created']).astimezone():%Y-%m-%d %H:%M}"
        exact = " (exact match)" if "mean_average_precision" in run else ""
        numbers = f"{run['num_pictures']:,}", f"{run['val_accuracy']:.4f}{exact}", f"{run['val_loss']:.4f}"
        texts = (run["folder"], date, options or "defaults", *numbers, ", ".join(run["exports"]) or "no")
        rows.append(tuple(map(make_printable, texts)))
    if listed:
        console.show_table(f"{format_count(len(listed), 'run')} below {config.folder}", rows)
    else:
        console.info(f"no runs below {config.folder}")
    return {"runs": listed}


def list_runs(folder: Path, console: Console) -> list[dict[str, Any]]:
    """List the runs in and below a folder, oldest first, as `--json` prints them.

    Hidden folders and symbolic links are skipped. A run that cannot be read is skipped with a warning.

    Returns:
        A dictionary for each run with, among others, `folder`, `options` (those that differ from the defaults) and
        `exports` (the folders of its exported models). Folders are relative to the given folder. With several labels a
        picture, it also has the `mean_average_precision`.
    """
    from train_head.runs.card import MODEL_FILE, read_card
    from train_head.runs.read import Run
    from train_head.runs.record import DEFAULTS, METRICS_FILE, PATH_OPTIONS, RUN_FILE

    folders = list(_walk(folder, MAX_DEPTH))
    exports: dict[str, list[str]] = {}
    for path in folders:
        if (path / MODEL_FILE).is_file():
            with suppress(HeadstartError):
                exports.setdefault(read_card(path / MODEL_FILE).run, []).append(os.path.relpath(path, folder))
    listed: list[dict[str, Any]] = []
    for path in (path for path in folders if os.path.lexists(path / RUN_FILE)):
        try:
            run = Run(path)
            metrics = run.read_metrics()
            num_pictures = int(metrics["num_train"]) + int(metrics["num_validation"])
        except (HeadstartError, KeyError, TypeError, ValueError) as error:
            reason = (
                error
                if isinstance(error, HeadstartError)
                else f"{path / METRICS_FILE}: missing or invalid value, {error!r}."
            )
            console.warning(f"skipped a run that cannot be read. {reason}")
            continue
        # Runs of version 1 have no date.
        written = datetime.fromtimestamp((path / RUN_FILE).stat().st_mtime, UTC)
        with suppress(ValueError):
            written = datetime.fromisoformat(run.record.created)
        options = {
            name: value
            for name, value in run.record.config.items()
            if name not in {*PATH_OPTIONS, *_HIDDEN_OPTIONS} and value != DEFAULTS.get(name)
        }
        several = {"cut": run.options["cut"]} if "," in run.options.get("cut", "") else {}
        several |= {"views": run.num_views} if run.num_views > 1 else {}
        found = {
            "folder": os.path.relpath(path, folder),
            "created": written.astimezone(UTC).isoformat(timespec="seconds"),
            "options": options | several,
            "num_pictures": num_pictures,
            "val_accuracy": float(metrics["val_accuracy"]),
            "val_loss": float(metrics["val_loss"]),
            **{name: metrics[name] for name in ("mean_average_precision",) if name in metrics},
            "head": run.record.head,
            "exports": exports.get(run.record.head or "unknown", []),
        }
        listed.append(found)
    return sorted(listed, key=lambda run: (run["created"], run["folder"]))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield a folder and the folders below it in alphabetical order, at most `depth` levels down."""
    yield folder
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if depth else []
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, depth - 1)
