"""A whole sweep: plan, check, fit, rank, and keep the best head."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from base.errors import HeadstartError, UsageError
from base.replace import replace_folder
from base.target import Names, Target
from base.terminal import Console, format_count, format_seconds
from train_head.evaluation.uncertainty import Selection, record_selection
from train_head.runs import record
from train_head.runs.read import Run
from train_head.runs.write import copy_run, shorten_path, warn_on_failure, write_metrics, write_record
from train_head.solvers import ignore_epoch
from train_head.solvers.history import Epoch
from train_head.sweep.config import ADVICE, DEFAULT_TRIALS, OPTION, TRIALS_FOLDER, SearchName, SweepConfig
from train_head.sweep.fit import TrialConsole, fit_candidate, measure_baselines
from train_head.sweep.plan import Candidate, Plan, count_different_validation_sets, plan_sweep
from train_head.sweep.rows import Row, Status, count_close, find_best, sort_rows
from train_head.sweep.table import describe_best, format_rows, read_table, write_table

RESULT_ENTRIES: Names = {record.TABLE_FILE: None, record.PLOT_FILE: None, record.BEST_FOLDER: record.RUN_ENTRIES}
"""Entries of a sweep's folder that are replaced as a whole."""


class NoHeadError(HeadstartError):
    """No head of a sweep was fitted to the end. The table was written unless the folder has earlier results."""

    result: dict[str, Any]
    """Result of `sweep_heads` without a best head."""


def sweep_heads(config: SweepConfig, console: Console) -> dict[str, Any]:
    """Fit the heads and the baselines of a sweep; write the runs, the table, the plot and the best run.

    Args:
        config: options of the sweep.
        console: output of messages and progress.

    Returns:
        The result, as `--json` prints it: `trials`, `baselines`, `best`, `num_close` and `selection`, among others.

    Raises:
        UsageError: an option or a combination of values is invalid; nothing was fitted.
        NoHeadError: no head was fitted to the end.
        HeadstartError: another failure; finished runs are kept.
    """
    started = time.monotonic()
    plan = plan_sweep(config)
    if any(dataset.split.is_multi_label for dataset in plan.datasets):
        console.info("accuracy is the exact match: the share of pictures with all labels correct")
    if others := count_different_validation_sets(plan.datasets):
        console.warning(
            f"the validation pictures of {others} of {len(plan.datasets)} stores and cuts differ from those of the "
            "first; accuracies on different pictures cannot be compared"
        )
    axes, found = [axis.name for axis in plan.axes], dict[str, Row]()
    rows, best = list[Row](), None
    with replace_folder(describe_sweep_target(config.out)) as replacement:
        try:
            _fit_all(config, plan, found, console)
            best = find_best(found.values(), config.metric)
        finally:
            rows = sort_rows(found.values(), config.metric)
            # Write the table of an interrupted sweep unless it would replace earlier results.
            if rows and best is None and not any(os.path.lexists(config.out / name) for name in RESULT_ENTRIES):
                write_table(replacement.staging / record.TABLE_FILE, rows, axes)
                replacement.commit()
        result = _describe(config, rows, best) | {"selection": asdict(plan.selection)}
        if best is not None:
            write_table(replacement.staging / record.TABLE_FILE, rows, axes)
            if not config.no_report:
                from train_head.sweep.plot import draw_sweep

                with warn_on_failure(record.PLOT_FILE, console):
                    draw_sweep(rows, config.metric, replacement.staging / record.PLOT_FILE)
            copy_best(config, plan.selection, best, replacement.staging / record.BEST_FOLDER)
            replacement.commit()
    console.show_table(f"sweep {config.out}", format_rows(rows, axes, config.metric))
    if best is None:
        error = NoHeadError(config.out, "a head that was fitted to the end", "none", "Try smaller learning rates")
        error.result = result
        raise error
    if not config.no_report:
        console.info(f"plot of all heads: {result['plot']}")
    summary, *warnings = describe_best(rows, best, config.metric, plan.selection.describe())
    (console.warning if plan.selection.num_candidates > 1 else console.info)(summary)
    for warning in warnings:
        console.warning(warning)
    seconds = time.monotonic() - started
    num_heads = format_count(result["num_heads"], "head")
    console.info(f"{num_heads} in {format_seconds(seconds)}; best: {result['best']['run']}")
    return result | {"seconds": round(seconds, 3)}


def describe_sweep_target(out: Path) -> Target:
    """Return the target for replacing the table, the plot and the best run of a sweep as a whole.

    Other entries of the folder are left alone. `trials/` and Optuna's study are not replaced but extended.
    """
    if not out.resolve().name:
        raise UsageError(out, "a folder below the root", "the root itself", f"Give another {OPTION}")
    return Target(out, RESULT_ENTRIES, refuse_foreign_sweep, OPTION)


def refuse_foreign_sweep(out: Path) -> None:
    """Raise HeadstartError if sweep.csv, sweep.png or best/ in a folder was not written by a sweep."""
    table, plot, best = (out / name for name in RESULT_ENTRIES)
    if table.exists():
        read_table(table)
    elif plot.exists():
        raise HeadstartError(plot, f"a plot with a table {record.TABLE_FILE} beside it", "no table", ADVICE)
    if best.exists():
        try:
            record.refuse_foreign_run(best)
        except HeadstartError as error:
            raise HeadstartError(error.where, error.expected, error.got, ADVICE) from error


def copy_best(config: SweepConfig, selection: Selection, best: Row, folder: Path) -> None:
    """Copy the best run into a staging folder, record the selection, and keep its report if the run is unchanged."""
    source, old = Run(config.out / best.run), config.out / record.BEST_FOLDER
    folder.mkdir()
    copied = copy_run(source, folder)
    write_metrics(folder, record_selection(source.read_metrics(), selection))
    store = Path(source.read_local_paths().get("store", source.record.store))
    write_record(folder, replace(copied, store=shorten_path(store, old)))
    earlier, later = old / record.RUN_FILE, folder / record.RUN_FILE
    if earlier.is_file() and earlier.read_bytes() == later.read_bytes():
        for name in (record.REPORT_FILE, record.CURVES_FILE):
            if (old / name).is_file() and not (folder / name).exists():
                shutil.copyfile(old / name, folder / name)


def _fit_all(config: SweepConfig, plan: Plan, found: dict[str, Row], console: Console) -> None:
    """Fit the baselines and every head, and add each row to `found` as soon as it is known."""
    trial_console, trials = TrialConsole(console.options), config.out / TRIALS_FOLDER
    if trials.is_symlink() or (trials.exists() and not trials.is_dir()):
        raise HeadstartError(trials, "a folder of runs", "a link or another kind of file", ADVICE)
    trials.mkdir(parents=True, exist_ok=True)

    def fit(candidate: Candidate, on_epoch_end: Callable[[Epoch], None] = ignore_epoch) -> Row:
        return fit_candidate(candidate, config, plan.selection.num_candidates, trial_console, on_epoch_end)

    total = len(plan.candidates)
    rows: Iterator[Row] = map(fit, plan.candidates)
    if config.search is SearchName.OPTUNA:
        from train_head.sweep.optuna_search import open_study, search_heads

        study = open_study(config, plan.axes, plan.datasets)
        total, rows = config.trials or DEFAULT_TRIALS, search_heads(study, config, plan.axes, fit)
    axes = " x ".join(axis.describe() for axis in plan.axes)
    console.info(format_count(total, "head") + (f": {axes}" if axes else ""))
    fitted = (replace(fit(candidate), status=Status.BASELINE) for candidate in plan.baselines)
    for row in (*fitted, *measure_baselines(plan.datasets, config)):
        found[row.name] = row
        console.debug(f"{row.name}: {config.metric.value} {row.score.metric:.4f}")
    with console.progress("sweep", total, "heads") as progress:
        for row in rows:
            # A search may draw a head again: keep the row that was fitted to the end, else the last one.
            if row.name not in found or found[row.name].status is not Status.DONE:
                found[row.name] = row
            best = find_best(found.values(), config.metric)
            progress.advance(1, f"best {best.score.metric:.4f}" if best else "")


def _describe(config: SweepConfig, rows: Sequence[Row], best: Row | None) -> dict[str, Any]:
    """Return the result of a sweep, as `--json` prints it."""
    heads = [row for row in rows if row.status is not Status.BASELINE]
    described = {row.name: row.describe() | {"run": str(config.out / row.run) if row.run else ""} for row in rows}
    run = str(config.out / record.BEST_FOLDER)
    chosen = best and described[best.name] | {"run": run, "trial": described[best.name]["run"]}
    return {
        "metric": config.metric.value,
        "num_heads": len(heads),
        "trials": [described[row.name] for row in heads],
        "baselines": [described[row.name] for row in rows if row.status is Status.BASELINE],
        "best": chosen,
        "num_close": best and count_close(rows, best, config.metric),
        "table": str(config.out / record.TABLE_FILE),
        "plot": None if config.no_report or not best else str(config.out / record.PLOT_FILE),
    }
