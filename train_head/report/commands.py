"""Commands that a report suggests: what to run next, with the run's own options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from base.invocation import format_command, sort_as_make
from base.options import list_options
from features.cuts import list_cuts
from features.options import split_cuts
from train_head.config import ClassWeight, HeadConfig, SolverName
from train_head.report.findings import Confidence, Fit, is_imbalanced
from train_head.report.sources import Sources
from train_head.runs.arguments import list_changed_options, list_extraction_options
from train_head.runs.record import BEST_FOLDER, TABLE_FILE

BALANCED = ClassWeight.BALANCED.value
STRONG_DROPOUT = 0.5
PATIENCE = 5
FIRST_L2 = 1e-4


def suggest_commands(sources: Sources, findings: Mapping[str, Any], num_by_label: Mapping[str, int]) -> dict[str, str]:
    """Suggest the commands of a report: a line for the shell for each section.

    A command is empty if the findings give no reason for it. Paths are relative to the working folder. A path
    that is neither in it nor beside it is shortened to its name, because a report may be shared.

    Args:
        sources: the run and its store.
        findings: as `collect_findings` returns them.
        num_by_label: training pictures of each class.
    """
    record, fingerprint = sources.run.record, sources.store.fingerprint
    options = {option.name: option.default for option in list_options(HeadConfig)} | record.config
    if options["views"] == sources.store.num_views:
        options["views"] = None
    run, images = shorten(sources.place), sources.images
    images = shorten(images) if isinstance(images, Path) else images
    store_path = Path(os.path.normpath(sources.place / record.store))
    if len(split_cuts(fingerprint.cut)) == 1 and not list_cuts(store_path):
        options["cut"] = ""
    store = shorten(store_path)
    new, sweep = run, sources.place.parent
    if run.name == BEST_FOLDER and (sweep / TABLE_FILE).is_file():
        # New heads are beside the folder of the sweep, which has only its own ones.
        new = shorten(sweep.with_name(f"{sweep.name}-{run.name}"))
    # As the Makefile names them: model-dropout0.5 is of run-dropout0.5.
    model = new.with_name(f"model{new.name.removeprefix('run')}" if new.name.startswith("run") else f"{new.name}-model")
    train = ["train", "--store", str(store), "--run"]
    extract = ["extract", "--images", str(images), "--store", str(store), *list_extraction_options(sources.store)]
    imbalanced = is_imbalanced(num_by_label)
    is_ridge = record.solver == SolverName.RIDGE
    changes = {
        "fit": suggest_fit_change(findings["fit"], options),
        "calibration": suggest_calibration_change(None if is_ridge else findings["confidence"], options),
        "classes": {} if options["class_weight"] == BALANCED or not imbalanced else {"class_weight": BALANCED},
        "diverged": {"learning_rate": options["learning_rate"] / 10} if "diverged" in findings["cautions"] else {},
    }
    commands = {
        section: [*train, _name_run(new, change, options), *list_changed_options({**options, **change})]
        if change
        else []
        for section, change in changes.items()
    }
    commands |= {
        "extract": extract,
        "weights": [*extract, "--weights", "imagenet", "--new-store"] if sources.run.weak_weights else [],
        "train": [*train, str(new), *list_changed_options(options)],
        "sweep": ["sweep", "--store", str(store), "--out", f"{new}-sweep"],
        "test": ["report", "--run", str(run), "--test"],
        "export": ["export", "--run", str(run), "--out", str(model)],
        "predict": ["predict", "--model", f"{model}/model.keras", "FILE_OR_DIR"],
    }
    return {name: format_command(*words, is_shared=True) if words else "" for name, words in commands.items()}


def _name_run(run: Path, change: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return a folder beside a run for other options, named as in the Makefile, so that the run is kept.

    Args:
        run: folder of the run, whose name may have options, such as run-dropout0.5.
        change: options to change.
        options: options of the run.
    """
    parts = {name: f"-{name.replace('_', '-')}{value}" for name, value in options.items()}
    kept = [name for name, part in parts.items() if part in run.name]
    start = run.name
    for name in kept:
        start = start.replace(parts[name], "")
    parts |= {name: f"-{name.replace('_', '-')}{value}" for name, value in change.items()}
    names = sort_as_make("train", dict.fromkeys([*kept, *change]))
    return str(run.with_name(start + "".join(parts[name] for name in names)))


def suggest_fit_change(fit: Fit, options: Mapping[str, Any]) -> dict[str, Any]:
    """Suggest the option to change for a head that overfits or still improves; empty for a balanced one."""
    match fit:
        case Fit.STILL_IMPROVING:
            return {"epochs": 2 * options["epochs"]}
        case Fit.OVERFITTING if options["dropout"] < STRONG_DROPOUT and options.get("units") != 0:
            return {"dropout": STRONG_DROPOUT}
        case Fit.OVERFITTING:
            return {"l2": 10 * options["l2"] or FIRST_L2}
    return {}


def suggest_calibration_change(confidence: Confidence | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Suggest the option to change for a head that is over- or under-confident; empty for a consistent one."""
    match confidence:
        case Confidence.UNDER:
            return {"epochs": 2 * options["epochs"]}
        case Confidence.OVER if not options["patience"]:
            return {"patience": PATIENCE}
        case Confidence.OVER:
            return {"l2": 10 * options["l2"] or FIRST_L2}
    return {}


def shorten(path: Path) -> Path:
    """Return a path relative to the working folder; only its name if it is neither in it nor beside it."""
    place = path.resolve()
    with suppress(ValueError):
        relative = Path(os.path.relpath(place))
        if relative.name and relative.parts[:2] != ("..", ".."):
            return relative
    return Path(place.name)
