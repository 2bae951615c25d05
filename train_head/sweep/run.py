"""A sweep from beginning to end: plan, check, fit, sort, and keep the best."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from base.command_line import CommandFailed
from base.errors import HeadstartError, UsageError, require_extra
from base.files import read_regular_file
from base.replace import Names, Replacement, Target, replace_folder
from base.terminal import Console, format_seconds
from train_head.evaluation.uncertainty import Selection, record_selection
from train_head.runs.read import Run
from train_head.runs.record import (
    BEST_FOLDER,
    CURVES_FILE,
    PLOT_FILE,
    REPORT_FILE,
    RUN_FILE,
    RUN_NAMES,
    TABLE_FILE,
    refuse_foreign_run,
)
from train_head.runs.write import copy_run, keep_going, seal_run, shorten_path, write_metrics
from train_head.solvers import ignore_epoch
from train_head.solvers.history import Epoch
from train_head.sweep.config import TRIALS_FOLDER, MetricName, SearchName, SweepConfig
from train_head.sweep.fit import TrialConsole, fit_baselines, fit_candidate
from train_head.sweep.plan import (
    Candidate,
    Measure,
    check_candidates,
    count_other_pictures,
    plan_grid,
    plan_selection,
)
from train_head.sweep.rows import Row, Status, allow_for_choice, count_close, find_best, join_rows, sort_rows
from train_head.sweep.space import Axis, complete_axes, parse_axes
from train_head.sweep.table import describe_best, list_shown, write_table

RESULT_NAMES: Names = {TABLE_FILE: None, PLOT_FILE: None, BEST_FOLDER: RUN_NAMES}
"""What a sweep makes as a whole."""
MAX_TABLE_BYTES = 2**26


@dataclass(frozen=True)
class Plan:
    """What a sweep will do."""

    axes: list[Axis]
    candidates: list[Candidate]
    """Every head of a grid; for optuna, which chooses others, the corners of what it searches."""
    measures: list[Measure]
    selection: Selection
    """What the best will have been chosen from."""


def sweep_heads(config: SweepConfig, console: Console) -> dict[str, Any]:
    """Fits heads side by side, and keeps them, a table, a plot and the best one.

    Args:
        config: which heads, on which features, where to.
        console: where progress goes.

    Returns:
        What `--json` prints: `trials`, `baselines`, `best`, and what to make of them.

    Raises:
        UsageError: an option or a combination that cannot be; nothing was fitted.
        HeadstartError: something else that a user can mend; what was finished stays.
        CommandFailed: no head was fitted to its end.
    """
    started = time.monotonic()
    plan = plan_sweep(config)
    if others := count_other_pictures(plan.measures):
        console.warn(
            f"{others} of {len(plan.measures)} stores and cuts have other validation pictures than the first: "
            "their accuracies do not compare"
        )
    with replace_folder(describe_results(config.out)) as replacement:
        rows: list[Row] = []
        try:
            _fit_all(config, plan, rows, console)
        except BaseException:
            _keep_rows(config, plan, rows, replacement)
            raise
        rows = _sort(config, plan, rows)
        best = find_best(rows, config.metric)
        result = _describe(config, rows) | {"selection": asdict(plan.selection)}
        if best is None:
            _keep_rows(config, plan, rows, replacement)
            _show_table(config, plan, rows, console)
            where = f"{config.out}: expected a head that was fitted to its end, got none"
            raise CommandFailed(result, f"{where}. Try smaller learning rates.")
        _write_table(plan, rows, replacement.staging)
        if not config.no_report:
            from train_head.sweep.plot import draw_sweep

            with keep_going(PLOT_FILE, console):
                draw_sweep(rows, config.metric, replacement.staging / PLOT_FILE)
        copy_best(config, plan, best, replacement.staging / BEST_FOLDER)
        replacement.commit()
    _show_table(config, plan, rows, console)
    if not config.no_report:
        console.say(f"every head with its uncertainty: {config.out / PLOT_FILE}")
    _conclude(config, rows, best, plan.selection, console)
    seconds = time.monotonic() - started
    console.say(f"{result['num_heads']} heads in {format_seconds(seconds)}; the best is in {config.out / BEST_FOLDER}")
    return result | {"seconds": round(seconds, 3)}


def plan_sweep(config: SweepConfig) -> Plan:
    """Plans a sweep, and makes sure that all of it can be done; fits nothing and writes nothing.

    Raises:
        UsageError: an option or a combination that cannot be.
        HeadstartError: a store that cannot be used.
    """
    is_optuna = config.search is SearchName.OPTUNA
    if is_optuna:
        require_extra("optuna", "--search optuna", "sweep SEARCH=optuna")
    elif config.trials:
        raise UsageError("--trials", "--search optuna", "--search grid, which fits them all", "Leave one of them out")
    if config.metric is MetricName.VAL_LOSS and (config.folds or config.repeats > 1):
        advice = "Leave out --folds and --repeats, which measure accuracies, or the metric"
        raise UsageError("--metric", "val_accuracy with --folds or --repeats", "val_loss", advice)
    if config.out.is_file():
        raise UsageError(config.out, "a folder for the sweep", "a file", "Give another --out (SWEEP=)")
    axes = complete_axes(parse_axes(config.tries or [], takes_ranges=is_optuna), config)
    candidates = plan_grid(config, axes)
    return Plan(axes, candidates, check_candidates(candidates), plan_selection(config, axes, candidates))


def describe_results(out: Path) -> Target:
    """Describe what a sweep makes in its folder as a whole: the table, the plot and the best run.

    The folder may hold anything else; `trials/` and the study of Optuna grow with each head.
    """
    if not out.resolve().name:
        raise UsageError(out, "a folder below the root", "the root itself", "Give another --out (SWEEP=)")
    return Target(out, RESULT_NAMES, refuse_foreign_results, "--out (SWEEP=)")


def refuse_foreign_results(out: Path) -> None:
    """Raise HeadstartError where a folder's sweep.csv, sweep.png or best/ is not a sweep's."""
    table, plot, best = out / TABLE_FILE, out / PLOT_FILE, out / BEST_FOLDER
    advice = "Move it, or give another --out (SWEEP=)"
    if table.exists():
        try:
            header = read_regular_file(table, MAX_TABLE_BYTES).split(b"\n")[0].strip().split(b",")
        except OSError as error:
            raise HeadstartError(table, "the table of a sweep", error.strerror or str(error), advice) from error
        if header[:2] != [b"name", b"status"] or header[-1] != b"run":
            raise HeadstartError(table, "the table of a sweep", "another file", advice)
    elif plot.exists():
        raise HeadstartError(plot, f"a plot beside the {TABLE_FILE} of a sweep", "one alone", advice)
    if best.exists():
        try:
            refuse_foreign_run(best)
        except HeadstartError as error:
            raise HeadstartError(error.where, error.expected, error.got, advice) from error


def copy_best(config: SweepConfig, plan: Plan, best: Row, folder: Path) -> None:
    """Copy the best run into a staging folder, with what it was chosen from, and the report that it has already."""
    source, old = Run(config.out / best.run), config.out / BEST_FOLDER
    folder.mkdir()
    record = copy_run(source, folder)
    write_metrics(folder, record_selection(source.read_metrics(), plan.selection))
    store = Path(source.read_places().get("store", source.record.store))
    seal_run(folder, replace(record, store=shorten_path(store, old)))
    if (old / RUN_FILE).is_file() and (old / RUN_FILE).read_bytes() == (folder / RUN_FILE).read_bytes():
        for name in (REPORT_FILE, CURVES_FILE):
            if (old / name).is_file() and not (folder / name).exists():
                shutil.copyfile(old / name, folder / name)


def _keep_rows(config: SweepConfig, plan: Plan, rows: Sequence[Row], replacement: Replacement) -> None:
    """Write the table of what is done so far, where no earlier results would be lost by it."""
    if rows and not any(os.path.lexists(config.out / name) for name in RESULT_NAMES):
        _write_table(plan, _sort(config, plan, rows), replacement.staging)
        replacement.commit()


def _sort(config: SweepConfig, plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """Sort the rows, and widen their intervals by the choice among them."""
    joined = sort_rows(join_rows(rows), config.metric)
    return allow_for_choice(joined, config.metric, plan.selection.num_candidates)


def _write_table(plan: Plan, rows: Sequence[Row], folder: Path) -> None:
    write_table(folder / TABLE_FILE, rows, [axis.name for axis in plan.axes])


def _show_table(config: SweepConfig, plan: Plan, rows: Sequence[Row], console: Console) -> None:
    names = [axis.name for axis in plan.axes]
    console.show_table(f"sweep {config.out}", list_shown(rows, names, config.metric))


def _fit_all(config: SweepConfig, plan: Plan, found: list[Row], console: Console) -> None:
    """Fits the baselines and every head, and adds each to the rows as soon as it is known."""
    axes = " x ".join(f"{_count(axis)} {axis.name.replace('_', ' ')}" for axis in plan.axes) or "one"
    trial_console = TrialConsole(console.options)
    trials = config.out / TRIALS_FOLDER
    if trials.is_symlink() or (trials.exists() and not trials.is_dir()):
        advice = "Move it, or give another --out (SWEEP=)"
        raise HeadstartError(trials, "a folder of runs", "a link or something else", advice)
    trials.mkdir(parents=True, exist_ok=True)

    def fit(candidate: Candidate, follow: Callable[[Epoch], None] = ignore_epoch) -> Row:
        return fit_candidate(candidate, config, trial_console, follow)

    rows: Iterator[Row]
    if config.search is SearchName.OPTUNA:
        from train_head.sweep.optuna_search import Search

        search = Search(config, plan.axes, plan.measures)
        total, rows = search.num_trials, search.fit_all(fit)
    else:
        total, rows = len(plan.candidates), map(fit, plan.candidates)
    console.say(f"{total} heads: {axes}")
    found += fit_baselines(plan.measures, config)
    for row in found:
        console.detail(f"{row.name}: {config.metric.value} {row.score.value:.4f}")
    with console.progress("sweep", total, "heads") as progress:
        for row in rows:
            found.append(row)
            best = find_best(found, config.metric)
            progress.advance(1, f"best {best.score.value:.4f}" if best else "")


def _count(axis: Axis) -> str:
    return f"{axis.values[0]:g} to {axis.values[1]:g}" if axis.is_range else str(len(axis.values))


def _describe(config: SweepConfig, rows: Sequence[Row]) -> dict[str, Any]:
    """Describes a sweep as `--json` prints it."""
    heads = [row for row in rows if row.status is not Status.BASELINE]
    best = find_best(rows, config.metric)
    return {
        "metric": config.metric.value,
        "num_heads": len(heads),
        "trials": [_describe_row(config, row) for row in heads],
        "baselines": [row.describe() for row in rows if row.status is Status.BASELINE],
        "best": best
        and best.describe() | {"run": str(config.out / BEST_FOLDER), "trial": _describe_row(config, best)["run"]},
        "num_close": best and count_close(rows, best, config.metric),
        "table": str(config.out / TABLE_FILE),
        "plot": None if config.no_report or not best else str(config.out / PLOT_FILE),
    }


def _describe_row(config: SweepConfig, row: Row) -> dict[str, Any]:
    return row.describe() | {"run": str(config.out / row.run) if row.run else ""}


def _conclude(config: SweepConfig, rows: Sequence[Row], best: Row, selection: Selection, console: Console) -> None:
    """Says how much the choice of the best one means."""
    said = describe_best(rows, best, config.metric, selection.describe())
    (console.warn if selection.num_candidates > 1 else console.say)(said)
    strongest = sort_rows([row for row in rows if row.status is Status.BASELINE], config.metric)[0]
    if sort_rows([strongest, best], config.metric)[0] is strongest:
        name = config.metric.value.replace("_", " ")
        console.warn(f"no head is better than {strongest.name}, {name} {strongest.score.value:.4f}")
