"""Command line of `python -m train_head.compare`: compare the overfitting of a head without and with dropout."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from base.command_line import run_app
from base.errors import HeadstartError, UsageError
from base.files import name_beside
from base.options import head_option, place_option
from base.target import Target
from base.terminal import Console
from train_head.config import SolverName, TrainConfig
from train_head.evaluation.uncertainty import describe_interval, name_accuracy
from train_head.runs.record import (
    COMPARISON_FILE,
    RUN_ENTRIES,
    RUN_FILE,
    WITH_DROPOUT,
    WITHOUT_DROPOUT,
    refuse_foreign_run,
)

if TYPE_CHECKING:
    from train_head.prepare import Training
    from train_head.runs.read import Run


@dataclass(frozen=True)
class CompareConfig(TrainConfig):
    """Options of `compare`: those of `train`. The first head has no dropout, the second one has `dropout`."""

    run: Annotated[Path, place_option(help="Folder for both runs and the plot of their learning curves.")] = Path(
        "compare"
    )
    dropout: Annotated[
        float, head_option(min=0.01, max=0.99, help="Dropout of the second head; the first has none.")
    ] = 0.5


def compare(config: CompareConfig, console: Console) -> Mapping[str, Any]:
    """Fit the same head without and with dropout, and compare how much each overfits.

    Examples:
        headstart compare --store work/store --run work/compare --dropout 0.5
    """
    from train_head.report.page import report_fitted_run
    from train_head.train import raise_if_diverged

    trainings = plan_trainings(config)
    results = fit_comparison(config, trainings, console)
    for name, training in trainings.items():
        raise_if_diverged(training.config, results[name])
        report_fitted_run(training.config, console)
        results[name] = {"run": str(training.config.run), **results[name], **measure_gap(results[name])}
    first = next(iter(results.values()))
    accuracy = name_accuracy(is_multi_label=bool(first.get("is_multi_label")))
    metrics = [
        (f"training {accuracy}", "train_accuracy", ".4f"),
        (f"validation {accuracy}", "val_accuracy", ".4f"),
        ("gap", "accuracy_gap", "+.4f"),
        ("training loss", "train_loss", ".4f"),
        ("validation loss", "val_loss", ".4f"),
        ("gap", "loss_gap", "+.4f"),
    ]
    rows: list[tuple[str, ...]] = [("", *results)]
    rows += [(title, *(f"{result[key]:{form}}" for result in results.values())) for title, key, form in metrics]
    rows.insert(3, ("95% confidence interval", *(describe_interval(result) for result in results.values())))
    console.show_table(f"the same head without and with dropout, in {config.run}", rows)
    if not config.no_report:
        console.info(f"learning curves: {config.run / COMPARISON_FILE}")
    return {"comparison": results}


def plan_trainings(config: CompareConfig) -> dict[str, Training]:
    """Prepare both trainings, before either is fitted; raise UsageError or HeadstartError if one cannot be fitted."""
    from train_head.prepare import prepare_training

    if config.solver is SolverName.RIDGE:
        raise UsageError("--solver", "reduced, full or auto", "ridge, which has no dropout", "Use another solver")
    if not config.units:
        raise UsageError("--units", "1 or more", "0, a head without dropout", "Give a number of units")
    options = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}

    def plan(folder: str, dropout: float) -> Training:
        return prepare_training(TrainConfig(**{**options, "dropout": dropout, "run": config.run / folder}))

    dropout = f"{config.dropout:g}"
    return {
        "without dropout": plan(WITHOUT_DROPOUT, 0.0),
        f"with dropout {dropout}": plan(f"{WITH_DROPOUT}{dropout}", config.dropout),
    }


def fit_comparison(
    config: CompareConfig, trainings: Mapping[str, Training], console: Console
) -> dict[str, dict[str, Any]]:
    """Fit the missing runs, replace both runs and the plot in one step, and return the metrics of both runs.

    An earlier comparison with other options or pictures is kept beside the new one, with its date in the folder name.
    """
    from base.replace import replace_folder
    from train_head.data.summary import log_dataset_summary
    from train_head.prepare import holds_run
    from train_head.runs.read import Run
    from train_head.runs.write import copy_run, name_archive, write_record
    from train_head.solvers.checkpoint import CHECKPOINT_PREFIX, remove_checkpoints
    from train_head.train import fit_run

    for training in trainings.values():
        # This also completes an interrupted replacement, so that the folder can be listed below.
        holds_run(training.config.run)
    target, place = describe_comparison(config, trainings), config.run.resolve()
    with replace_folder(target) as replacement:
        same = [] if config.overwrite else [name for name, training in trainings.items() if training.is_completed()]
        if len(same) == len(trainings) and (config.no_report or (config.run / COMPARISON_FILE).is_file()):
            console.info(f"{config.run} already contains this comparison; nothing to do")
            return {name: Run(training.config.run).read_metrics() for name, training in trainings.items()}
        first = next(iter(trainings.values()))
        log_dataset_summary(first.store, first.split, first.config, console)
        runs, checkpoints = {}, []
        for name, training in trainings.items():
            folder = replacement.staging / training.config.run.name
            folder.mkdir()
            if name in same:
                write_record(folder, copy_run(Run(training.config.run), folder))
            else:
                checkpoints.append(name_beside(place, CHECKPOINT_PREFIX, f"-{folder.name}"))
                fit_run(training, folder, checkpoints[-1], console, time.monotonic())
            runs[name] = Run(folder)
        results = {name: run.read_metrics() for name, run in runs.items()}
        if not config.no_report:
            _draw(runs, replacement.staging / COMPARISON_FILE, console)
        old = [config.run / name for name in target.names if (config.run / name / RUN_FILE).is_file()]
        is_kept = old and len(same) < len(trainings) and not config.overwrite
        archive = name_archive(config.run, old[-1]) if is_kept else ""
        replacement.commit(archive)
    if archive:
        console.info(f"earlier comparison kept as {archive}")
    for folder in checkpoints:
        remove_checkpoints(folder)
    return results


def describe_comparison(config: CompareConfig, trainings: Mapping[str, Training]) -> Target:
    """Describe the entries of a comparison's folder that are replaced together: both runs and the plot."""
    out, option = config.run, "run folder"
    if not out.resolve().name:
        raise UsageError(out, "a folder below the root", "the root itself", f"Give another {option}")
    if os.path.lexists(out) and not out.is_dir():
        raise UsageError(out, "a folder for both runs", "a file", f"Give another {option}")
    # The second run of an earlier comparison has its dropout in its name.
    earlier = [path.name for path in out.glob(f"{WITH_DROPOUT}*") if (path / RUN_FILE).is_file()]
    runs = sorted({training.config.run.name for training in trainings.values()} | {WITHOUT_DROPOUT, *earlier})

    def refuse_foreign(folder: Path) -> None:
        found = [folder / name for name in runs if os.path.lexists(folder / name)]
        for run in found:
            refuse_foreign_run(run)
        if not found:
            expected, advice = "the plot of a comparison, with both runs", f"Move it, or give another {option}"
            raise HeadstartError(folder / COMPARISON_FILE, expected, "a file without runs", advice)

    return Target(out, {COMPARISON_FILE: None, **dict.fromkeys(runs, RUN_ENTRIES)}, refuse_foreign, option)


def measure_gap(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the gaps in accuracy and loss, measured without dropout; they are positive if training is better."""
    return {
        "accuracy_gap": metrics["train_accuracy"] - metrics["val_accuracy"],
        "loss_gap": metrics["val_loss"] - metrics["train_loss"],
    }


def _draw(runs: Mapping[str, Run], path: Path, console: Console) -> None:
    from train_head.evaluation.plots import draw_comparison
    from train_head.runs.write import warn_on_failure

    gaps = {name: measure_gap(run.read_metrics())["accuracy_gap"] for name, run in runs.items()}
    histories = {f"{name}: gap {gaps[name]:+.4f}": run.read_history() for name, run in runs.items()}
    with warn_on_failure(COMPARISON_FILE, console):
        draw_comparison(histories, path)


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(compare, CompareConfig, name)


if __name__ == "__main__":
    main("python -m train_head.compare")
