"""Stage two: from a feature store to a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.console import Console, format_seconds, import_quietly
from features.cuts import list_cuts, open_store
from features.errors import HeadstartError, UsageError
from features.store import FeatureStore
from train_head.batches import number_targets
from train_head.config import NOTHING, OptimizerName, SolverName, TrainConfig
from train_head.evaluation import evaluate
from train_head.extras import require_extra
from train_head.metrics import compute_loss, compute_metrics, find_largest_class, predict_classes
from train_head.remarks import (
    count_unusable,
    refuse_other_images,
    refuse_unfinished_store,
    tell_what_there_is,
    warn_of_changed_store,
)
from train_head.run import (
    CURVES_FILE,
    PREDICTIONS_FILE,
    Run,
    RunRecord,
    describe_config,
    hash_views,
    list_run_examples,
)
from train_head.same_run import refuse_other_run
from train_head.solvers import Fit, Problem, Solve, ignore_epoch
from train_head.solvers.choose import choose_solver, measure_sizes
from train_head.solvers.history import Epoch, PartlyDivergedError
from train_head.split import Split, split_examples
from train_head.tensorboard_logs import keep_logs
from train_head.trials import Outcome, Trial, fit_first, fit_others, judge_fit, plan_trials, summarize_trials
from train_head.uncertainty import Selection, record_selection
from train_head.write_run import move_into_place, write_predictions, write_run

if TYPE_CHECKING:
    from train_head.tuning.tail import Tail


def train_head(
    config: TrainConfig,
    console: Console,
    started: float | None = None,
    follow: Callable[[Epoch], None] = ignore_epoch,
) -> dict[str, Any]:
    """Fits a head on a store's features and keeps it as a run.

    Args:
        config: which store, which head, where to.
        console: where progress goes.
        started: `time.monotonic()` when the user began to wait; None for now.
        follow: told of each epoch of the fit that is kept; what it raises ends the training without a run.

    Returns:
        The run's metrics, as `--json` prints them.

    Raises:
        HeadstartError: anything that a user can mend; no run appears, and an older one stays. Where the loss
            became NaN after a good epoch, the run with that epoch's weights appears all the same.
    """
    started = time.monotonic() if started is None else started
    check_arguments(config)
    store = open_training_store(config)
    config = replace(config, store=store.path, cut=store.fingerprint.cut, views=settle_views(store, config.views))
    split = split_store(store, config)
    tell_what_there_is(store, split, config, console)
    trials = plan_trials(config, split)
    record = RunRecord(
        config=describe_config(config),
        solver="",
        store=str(store.path.resolve()),
        fingerprint=store.fingerprint.digest,
        feature_shape=list(store.feature_shape),
        classes=split.classes,
        split_rule=split.rule,
        views_sha256=hash_views(store, split, config.views),
    )
    examples = list_run_examples(split)
    checkpoints = place_checkpoints(config.run)
    if refuse_other_run(config, record, examples):
        shutil.rmtree(checkpoints, ignore_errors=True)
        console.say(f"{config.run}: holds this very run already; nothing to do")
        if config.tensorboard:
            keep_logs(Run(config.run))
        metrics = Run(config.run).read_metrics()
        if metrics.get("diverged"):
            raise _describe_divergence(config, metrics)
        return metrics
    tail = _open_tail(store, config, console)
    top = tail.open_top() if tail else store
    solver, solve = _choose_solver(Problem(top, split, config), console)
    if solver is SolverName.REDUCED:
        for trial in trials:
            # A rank that a fold is too small for is told before anything is fitted.
            measure_sizes(Problem(top, trial.split, trial.config))
    if tail:
        from train_head.tuning.fit import tune_after

        solve = tune_after(solve, tail)
    fit = fit_first(trials, store, solve, checkpoints, console, follow)
    outcomes = [judge_fit(fit, split)]
    answered = time.monotonic() - started
    console.say(f"validation accuracy {outcomes[0].val_accuracy:.4f} after {format_seconds(answered)}")
    outcomes += fit_others(trials, store, solve, checkpoints, console)
    metrics = {
        "solver": solver.value,
        "seconds": round(answered, 3),
        "views": config.views,
        **_describe(fit, split, store, config.l2),
        **_describe_trials(trials, outcomes, config),
    }
    if not config.no_report:
        targets = number_targets(split.validation, split.classes)
        largest = find_largest_class(number_targets(split.train, split.classes), len(split.classes))
        metrics["evaluation"] = asdict(evaluate(targets, fit.validation_probabilities, split.classes, largest))
    metrics = record_selection(metrics, Selection.of_epochs(config))
    _write(config, replace(record, solver=solver.value), split, fit, metrics)
    if config.tensorboard:
        keep_logs(Run(config.run))
    shutil.rmtree(checkpoints, ignore_errors=True)
    warn_of_changed_store(store, split, config, console)
    if metrics["diverged"]:
        raise _describe_divergence(config, metrics)
    return metrics


def open_training_store(config: TrainConfig) -> FeatureStore:
    """Opens the store that a training begins with.

    Where layers of the backbone are trained again, it is the last one before them, and means come after them.
    """
    if config.unfreeze_from == NOTHING:
        return open_store(config.store, config.cut, config.pool)
    from extract.tail import choose_stored_cut

    return open_store(config.store, config.cut or choose_stored_cut(list_cuts(config.store), config.unfreeze_from))


def place_checkpoints(run: Path) -> Path:
    """Says where an interrupted training of a run is kept."""
    return run.resolve().with_name(f".checkpoint-{run.resolve().name}")


def check_arguments(config: TrainConfig) -> None:
    """Raises UsageError where options contradict each other, or ask for what is not installed."""
    if not 0 < config.learning_rate < float("inf"):
        raise UsageError("--learning-rate", "a number above 0", f"{config.learning_rate:g}", "1e-4 is the default")
    if not 0 < config.fine_tune_learning_rate < float("inf"):
        got = f"{config.fine_tune_learning_rate:g}"
        raise UsageError("--fine-tune-learning-rate", "a number above 0", got, "1e-5 is the default")
    if config.momentum and config.optimizer is not OptimizerName.SGD:
        raise UsageError("--momentum", "--optimizer sgd", f"--optimizer {config.optimizer}", "Leave one of them out")
    if config.rank and config.solver is SolverName.FULL:
        raise UsageError("--rank", "--solver reduced or auto", "--solver full", "Leave one of them out")
    if config.tensorboard:
        require_extra("tensorboard", "--tensorboard", "train TENSORBOARD=1")


def settle_views(store: FeatureStore, asked: int | None) -> int:
    """Returns how many views are trained on; raises UsageError where the store has fewer than were asked for."""
    if asked is not None and asked > store.num_views:
        raise UsageError(
            "--views",
            f"at most {store.num_views}, as many as {store.path} holds",
            str(asked),
            f"Run `python -m extract --views {asked}` first",
        )
    return asked or store.num_views


def split_store(store: FeatureStore, config: TrainConfig) -> Split:
    """Tells what is trained on from what validates; raises HeadstartError where there is not enough of either."""
    refuse_other_images(store, config.images)
    refuse_unfinished_store(store)
    return split_examples(store.examples, config.validation_split, store.images)


def _open_tail(store: FeatureStore, config: TrainConfig, console: Console) -> Tail | None:
    """Builds the part of the backbone that is trained again, if there is one."""
    if config.unfreeze_from == NOTHING:
        return None
    from train_head.tuning.tail import open_tail

    tail = open_tail(store, config.unfreeze_from, config.pool, config.weights, console)
    console.say(f"then {len(tail.trained)} layers of the backbone from {config.unfreeze_from} on, with the head")
    return tail


def _choose_solver(problem: Problem, console: Console) -> tuple[SolverName, Solve]:
    """Settles on a solver, and imports what it needs."""
    solver = problem.config.solver
    if solver is SolverName.AUTO:
        solver, why = choose_solver(measure_sizes(problem))
        console.say(f"solver: {solver.value} ({why})")
        if problem.config.rank and solver is SolverName.FULL:
            console.warn("the full solver takes all inputs; --rank is for the reduced one")
    if solver is SolverName.REDUCED:
        from train_head.solvers.reduced import fit_reduced

        return solver, fit_reduced
    import_quietly("keras")
    from train_head.solvers.full import fit_full

    return solver, fit_full


def _describe(fit: Fit, split: Split, store: FeatureStore, l2: float) -> dict[str, Any]:
    """Describes the kept head; losses with the L2 term, as Keras gives them."""
    train_targets = number_targets(split.train, split.classes)
    kept = fit.history[fit.kept_epoch - 1]
    return {
        "epochs": len(fit.history),
        "kept_epoch": fit.kept_epoch,
        "train_accuracy": float((predict_classes(fit.train_probabilities) == train_targets).mean()),
        "train_loss": compute_loss(train_targets, fit.train_probabilities) + l2 * fit.weights.sum_squares(),
        "val_loss": kept.val_loss,
        "classes": split.classes,
        **compute_metrics(
            number_targets(split.validation, split.classes),
            fit.validation_probabilities,
            split.classes,
            find_largest_class(train_targets, len(split.classes)),
        ),
        "num_train": len(split.train),
        "cut": store.fingerprint.cut,
        "before_tuning": asdict(fit.before_tuning) if fit.before_tuning else None,
        "num_validation": len(split.validation),
        "num_leaked": split.count_leaks(),
        **count_unusable(store),
        "split_rule": split.rule,
    }


def _describe_trials(trials: Sequence[Trial], outcomes: Sequence[Outcome], config: TrainConfig) -> dict[str, Any]:
    """Summarizes repeats and folds where they were asked for, and the first fit that failed."""
    done = list(zip(trials, outcomes, strict=False))
    summaries: dict[str, Any] = {"diverged": None}
    for kind, asked in (("repeat", config.repeats > 1), ("fold", config.folds > 0)):
        sound = [(t, o) for t, o in done if t.name.startswith(kind) and o.bad_epoch is None]
        if asked and sound:
            summaries[f"{kind}s"] = {
                **summarize_trials([outcome.val_accuracy for _, outcome in sound]),
                "num_train": [len(trial.split.train) for trial, _ in sound],
                "num_planned": sum(trial.name.startswith(kind) for trial in trials),
            }
    for trial, outcome in done:
        if outcome.bad_epoch is not None and summaries["diverged"] is None:
            summaries["diverged"] = {
                "trial": trial.name,
                "epoch": outcome.bad_epoch,
                "losses": outcome.last_losses,
                "kept_epoch": outcomes[0].kept_epoch,
            }
    return summaries


def _write(config: TrainConfig, record: RunRecord, split: Split, fit: Fit, metrics: dict[str, Any]) -> None:
    """Writes the run aside, and gives it its name when it is whole."""
    folder = config.run.resolve()
    aside = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        write_run(aside, record, list_run_examples(split), fit, metrics)
        write_predictions(aside / PREDICTIONS_FILE, split.validation, split.classes, fit.validation_probabilities)
        if not config.no_report:
            from train_head.report.plots import draw_curves

            draw_curves(fit.history, f"{folder.name}: {' or '.join(split.classes)}", aside / CURVES_FILE)
        move_into_place(aside, folder)
    except OSError as error:
        raise HeadstartError(
            config.run, "room and permission for the run", str(error), "Make room, or give another --run"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _describe_divergence(config: TrainConfig, metrics: dict[str, Any]) -> PartlyDivergedError:
    diverged, option, rate = metrics["diverged"], "--learning-rate", config.learning_rate
    if metrics.get("before_tuning"):
        option, rate = "--fine-tune-learning-rate", config.fine_tune_learning_rate
    return PartlyDivergedError(
        f"{config.run}, {diverged['trial']}, epoch {diverged['epoch']}",
        "a finite loss",
        f"{diverged['losses']} at learning rate {rate:g}",
        f"The run keeps the head of repeat 0, epoch {diverged['kept_epoch']}. Try a smaller {option}",
    )
