"""Training of a head on a feature store, written as a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from base.files import name_beside
from base.invocation import format_options
from base.replace import replace_folder
from base.terminal import Console, format_count, format_list, format_seconds, import_quietly
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING, SolverName, TrainConfig
from train_head.data.split import Split
from train_head.data.summary import count_unusable, identify_sources, log_dataset_summary, warn_if_store_changed
from train_head.evaluation.calibration import apply_temperature, choose_temperature, describe_calibration
from train_head.evaluation.evaluate import evaluate_head, measure_head
from train_head.evaluation.metrics import compute_loss, find_correct
from train_head.evaluation.outliers import fit_detector
from train_head.evaluation.uncertainty import Selection, compute_interval, name_accuracy, record_selection
from train_head.prepare import (
    Training,
    describe_ignored_options,
    describe_other_features,
    holds_run,
    prepare_training,
)
from train_head.runs.read import Run
from train_head.runs.record import CURVES_FILE, LOGS_FOLDER, OUTLIERS_FILE, RUN_FILE, describe_run_target
from train_head.runs.tensorboard import add_logs, write_logs
from train_head.runs.write import name_archive, warn_on_failure, write_run
from train_head.solvers import DEFAULT_SOLVER, Fit, LeaveOneOut, Problem, Solve, compute_reduced_shape, ignore_epoch
from train_head.solvers.checkpoint import CHECKPOINT_PREFIX, remove_checkpoints
from train_head.solvers.history import Epoch, PartlyDivergedError
from train_head.trials import evaluate_fit, fit_first, fit_others, summarize_trials


def train_head(
    config: TrainConfig,
    console: Console,
    started: float | None = None,
    on_epoch_end: Callable[[Epoch], None] = ignore_epoch,
    *,
    keeps_earlier: bool = True,
) -> dict[str, Any]:
    """Fit a head on a store's features, and write it as a run.

    The run folder is locked and checked before the fit. An earlier run with other options or pictures is kept beside
    the new one, with its date in the folder name.

    Args:
        config: options of the training.
        console: output of messages and progress.
        started: `time.monotonic()` at the start of the reported duration; by default the time of this call.
        on_epoch_end: called after each epoch of the fit that is kept; an exception ends the training without a run.
        keeps_earlier: whether to keep an earlier run. With `config.overwrite` it is replaced, even by an equal one.

    Returns:
        The metrics of the run, as printed by `--json`.

    Raises:
        TargetLockedError: another command is writing the run.
        PartlyDivergedError: the loss became NaN or infinite after a finite epoch; the run keeps that epoch's head.
        HeadstartError: any other error that the user can fix; an earlier run is unchanged.
    """
    started = time.monotonic() if started is None else started
    target = describe_run_target(config.run)
    path, sources = config.store, identify_sources(config.store)
    training = prepare_training(config)
    if ignored := describe_ignored_options(config):
        console.warning(ignored)
    config = training.config
    log_dataset_summary(training.store, training.split, config, console)
    if others := describe_other_features(config, training.store):
        preset = format_options("extract", {"preset": config.preset})
        console.warning(f"{others}. For the features of the preset, extract with {preset}")
    checkpoints = get_checkpoint_folder(config.run)
    differences = []
    if holds_run(config.run) and not config.overwrite:
        differences = training.list_differences()
        if not differences:
            remove_checkpoints(checkpoints)
            console.info(f"{config.run} already contains this run; nothing to do")
            if config.tensorboard:
                add_logs(Run(config.run))
            return raise_if_diverged(config, Run(config.run).read_metrics())
    with replace_folder(target) as replacement:
        metrics = fit_run(training, replacement.staging, checkpoints, console, started, on_epoch_end)
        is_kept = keeps_earlier and not config.overwrite and (config.run / RUN_FILE).exists()
        archive = name_archive(config.run, config.run) if is_kept else ""
        replacement.commit(archive)
    if archive:
        console.info(f"earlier run ({'; '.join(differences)}) kept as {archive}")
    remove_checkpoints(checkpoints)
    # Opening the store again takes as much memory as the store that is open.
    if identify_sources(path) != sources:
        warn_if_store_changed(training.store, training.split, config, console)
    return raise_if_diverged(config, metrics)


def fit_run(
    training: Training,
    folder: Path,
    checkpoints: Path,
    console: Console,
    started: float,
    on_epoch_end: Callable[[Epoch], None] = ignore_epoch,
) -> dict[str, Any]:
    """Fit a prepared training, write the run into an empty staging folder, and return its metrics.

    The result of the kept fit is saved as a checkpoint before anything is derived from it.
    """
    config, store, split, trials = training.config, training.store, training.split, training.trials
    tail, top = None, store
    if config.unfreeze_from != NO_FINE_TUNING:
        from train_head.finetuning.tail import open_tail

        tail = open_tail(store, config.unfreeze_from, config.pool, config.weights, console)
        top = tail.open_head_inputs()
        console.info(
            f"fine-tuning after the head: {format_count(len(tail.trained), 'layer')} from {config.unfreeze_from}"
        )
    solver, solve = _choose_solver(Problem(top, split, config), console)
    if solver is not SolverName.FULL:
        for trial in trials:
            # A fold that is too small for the rank must fail before the first fit.
            compute_reduced_shape(Problem(top, trial.split, trial.config))
    if tail:
        from train_head.finetuning.fit import add_fine_tuning

        solve = add_fine_tuning(solve, tail)
    fit = fit_first(trials, store, solve, checkpoints, console, on_epoch_end)
    outcomes = [evaluate_fit(fit, split)]
    seconds = time.monotonic() - started
    accuracy = name_accuracy(is_multi_label=split.is_multi_label)
    console.info(f"validation {accuracy} {outcomes[0].val_accuracy:.4f} after {format_seconds(seconds)}")
    outcomes += fit_others(trials, store, solve, checkpoints, console)
    metrics = {
        "solver": solver.value,
        "seconds": round(seconds, 3),
        "views": config.views,
        **_measure_fit(fit, split, store, config.l2),
        **summarize_trials(trials, outcomes, config),
    }
    if fit.leave_one_out:
        metrics["ridge"] = _describe_leave_one_out(fit.leave_one_out, len(split.train))
    targets, temperature = split.encode(split.validation), 1.0
    # The solver ridge scales its logits itself.
    if solver is not SolverName.RIDGE:
        temperature = choose_temperature(targets, fit.validation_probabilities)
        fit = replace(fit, validation_probabilities=apply_temperature(fit.validation_probabilities, temperature))
    if not config.no_report:
        with warn_on_failure("an evaluation", console):
            train_targets = split.encode(split.train)
            metrics["evaluation"] = {
                **evaluate_head(targets, fit.validation_probabilities, split.classes, train_targets),
                **describe_calibration(targets, fit.validation_probabilities, temperature),
            }
    metrics = record_selection(metrics, Selection.of_epochs(config))
    metrics["outliers"] = None
    with warn_on_failure(OUTLIERS_FILE, console):
        if detector := fit_detector(store, split, config, console):
            detector.save(folder / OUTLIERS_FILE)
            metrics["outliers"] = detector.describe()
    record = replace(training.record, solver=solver.value, temperature=temperature)
    written = write_run(folder, record, split, store, fit, metrics)
    # A learning curve needs epochs.
    if not config.no_report and solver is not SolverName.RIDGE:
        from train_head.evaluation.plots import draw_curves

        with warn_on_failure(CURVES_FILE, console):
            title = f"{config.run.resolve().name}: {format_list(split.classes, ' or ')}"
            title += " (accuracy: exact match)" if split.is_multi_label else ""
            draw_curves(fit.history, title, folder / CURVES_FILE)
    if config.tensorboard:
        with warn_on_failure(LOGS_FOLDER, console):
            write_logs(folder / LOGS_FOLDER, fit.history, time.time())
    return written


def get_checkpoint_folder(run: Path) -> Path:
    """Return the path of a run's checkpoint folder."""
    return name_beside(run.resolve(), CHECKPOINT_PREFIX)


def raise_if_diverged(config: TrainConfig, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return a run's metrics; raise PartlyDivergedError if a loss became NaN or infinite."""
    if not metrics.get("diverged"):
        return metrics
    diverged, name, rate = metrics["diverged"], "learning rate", config.learning_rate
    if metrics.get("before_tuning"):
        name, rate = "fine-tuning learning rate", config.fine_tune_learning_rate
    raise PartlyDivergedError(
        f"{config.run}, {diverged['trial']}, epoch {diverged['epoch']}",
        "a finite loss",
        f"{diverged['losses']} at {name} {rate:g}",
        f"Lower the {name}; the run keeps the head of repeat 0, epoch {diverged['kept_epoch']}",
    )


def _choose_solver(problem: Problem, console: Console) -> tuple[SolverName, Solve]:
    solver = problem.config.solver
    if solver is SolverName.AUTO:
        solver = DEFAULT_SOLVER
        console.info(f"solver: {solver.value} ({compute_reduced_shape(problem).describe()})")
    return solver, import_solver(solver)


def import_solver(name: SolverName) -> Solve:
    """Import the function of a solver, which is not `auto`, with its dependencies."""
    if name is SolverName.REDUCED:
        from train_head.solvers.reduced import fit_reduced

        return fit_reduced
    if name is SolverName.RIDGE:
        from train_head.solvers.ridge import fit_ridge

        return fit_ridge
    import_quietly("keras")
    from train_head.solvers.full import fit_full

    return fit_full


def _measure_fit(fit: Fit, split: Split, store: FeatureStore, l2: float) -> dict[str, Any]:
    """Compute the metrics of the kept head; losses include the L2 term, as in Keras."""
    train_targets = split.encode(split.train)
    return {
        "epochs": len(fit.history),
        "kept_epoch": fit.kept_epoch,
        "train_accuracy": float(find_correct(train_targets, fit.train_probabilities).mean()),
        "train_loss": compute_loss(train_targets, fit.train_probabilities) + l2 * fit.weights.sum_squares(),
        "val_loss": fit.history[fit.kept_epoch - 1].val_loss,
        "classes": split.classes,
        **({"is_multi_label": True} if split.is_multi_label else {}),
        **measure_head(split.encode(split.validation), fit.validation_probabilities, split.classes, train_targets),
        "num_train": len(split.train),
        "cut": store.fingerprint.cut,
        "image_size": store.fingerprint.image_size,
        "before_tuning": asdict(fit.before_tuning) if fit.before_tuning else None,
        "num_validation": len(split.validation),
        "num_leaked": split.count_leaks(),
        **count_unusable(store),
        "split_rule": split.rule,
    }


def _describe_leave_one_out(found: LeaveOneOut, num_pictures: int) -> dict[str, Any]:
    return {
        "penalty": found.penalty,
        "leave_one_out_accuracy": found.num_right / num_pictures,
        "leave_one_out_interval": list(compute_interval(found.num_right, num_pictures)),
    }
