"""A sweep from beginning to end: plan, check, fit, sort, and keep the best."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.command import CommandFailed
from features.console import Console, format_seconds
from features.durable import write_durably
from features.errors import UsageError
from train_head.extras import require_extra
from train_head.run import METRICS_FILE, RUN_FILE, Run
from train_head.solvers import ignore_epoch
from train_head.solvers.history import Epoch
from train_head.sweeping.axes import Axis, complete_axes, parse_axes
from train_head.sweeping.config import BEST_FOLDER, PLOT_FILE, TABLE_FILE, MetricName, SearchName, SweepConfig
from train_head.sweeping.fit import TrialConsole, fit_baselines, fit_candidate
from train_head.sweeping.plan import (
    Candidate,
    Measure,
    check_candidates,
    count_other_pictures,
    plan_grid,
    plan_selection,
)
from train_head.sweeping.rows import Row, Status, allow_for_choice, count_close, find_best, join_rows, sort_rows
from train_head.sweeping.table import describe_best, list_shown, write_table
from train_head.uncertainty import Selection, record_selection
from train_head.write_run import move_into_place


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
    found: list[Row] = []
    names = [axis.name for axis in plan.axes]
    try:
        _fit_all(config, plan, found, console)
    finally:
        # After Ctrl-C too: what is done can be looked at.
        rows = sort_rows(join_rows(found), config.metric)
        rows = allow_for_choice(rows, config.metric, plan.selection.num_candidates)
        if rows:
            write_table(config.out / TABLE_FILE, rows, names)
    console.show_table(f"sweep {config.out}", list_shown(rows, names, config.metric))
    result = _describe(config, rows) | {"selection": asdict(plan.selection)}
    best = find_best(rows, config.metric)
    if best is None:
        expected = f"{config.out}: expected a head that was fitted to its end, got none. Try smaller learning rates."
        raise CommandFailed(result, expected)
    if not config.no_report:
        from train_head.sweep_plot import draw_sweep

        draw_sweep(rows, config.metric, config.out / PLOT_FILE)
        console.say(f"every head with its uncertainty: {config.out / PLOT_FILE}")
    keep_best(Path(best.run), config.out / BEST_FOLDER, plan.selection)
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
        todo = "Leave out --folds and --repeats, which measure accuracies, or the metric"
        raise UsageError("--metric", "val_accuracy with --folds or --repeats", "val_loss", todo)
    if config.out.is_file():
        raise UsageError(config.out, "a folder for the sweep", "a file", "Give another --out (SWEEP=)")
    axes = complete_axes(parse_axes(config.tries or [], takes_ranges=is_optuna), config)
    candidates = plan_grid(config, axes)
    return Plan(axes, candidates, check_candidates(candidates), plan_selection(config, axes, candidates))


def keep_best(run: Path, folder: Path, selection: Selection) -> None:
    """Copies a run to where the best one is looked for, unless it is there already, with what was added to it.

    Its metrics record what it was chosen from.
    """
    metrics = record_selection(Run(run).read_metrics(), selection)
    if (folder / RUN_FILE).is_file() and (folder / RUN_FILE).read_bytes() == (run / RUN_FILE).read_bytes():
        kept = Run(folder).read_metrics()
        if Selection.read(kept) != Selection.read(metrics):
            _write_metrics(folder, kept | {name: metrics[name] for name in metrics})
        return
    aside = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        shutil.copytree(run, aside)
        _write_metrics(aside, metrics)
        move_into_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    write_durably(folder / METRICS_FILE, (json.dumps(metrics, indent=2) + "\n").encode())


def _fit_all(config: SweepConfig, plan: Plan, found: list[Row], console: Console) -> None:
    """Fits the baselines and every head, and adds each to the rows as soon as it is known."""
    axes = " x ".join(f"{_count(axis)} {axis.name.replace('_', ' ')}" for axis in plan.axes) or "one"
    trial_console = TrialConsole(console.options)
    config.out.mkdir(parents=True, exist_ok=True)

    def fit(candidate: Candidate, follow: Callable[[Epoch], None] = ignore_epoch) -> Row:
        return fit_candidate(candidate, config, trial_console, follow)

    rows: Iterator[Row]
    if config.search is SearchName.OPTUNA:
        from train_head.sweeping.optuna_search import Search

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
        "trials": [row.describe() for row in heads],
        "baselines": [row.describe() for row in rows if row.status is Status.BASELINE],
        "best": best and best.describe() | {"run": str(config.out / BEST_FOLDER), "trial": best.run},
        "num_close": best and count_close(rows, best, config.metric),
        "table": str(config.out / TABLE_FILE),
        "plot": None if config.no_report or not best else str(config.out / PLOT_FILE),
    }


def _conclude(config: SweepConfig, rows: Sequence[Row], best: Row, selection: Selection, console: Console) -> None:
    """Says how much the choice of the best one means."""
    said = describe_best(rows, best, config.metric, selection.describe())
    (console.warn if selection.num_candidates > 1 else console.say)(said)
    strongest = sort_rows([row for row in rows if row.status is Status.BASELINE], config.metric)[0]
    if sort_rows([strongest, best], config.metric)[0] is strongest:
        name = config.metric.value.replace("_", " ")
        console.warn(f"no head is better than {strongest.name}, {name} {strongest.score.value:.4f}")
