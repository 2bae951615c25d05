"""Stage two: from a feature store to a run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from features.console import Console, import_quietly
from features.errors import HeadstartError, UsageError
from features.store import FeatureStore
from train_head.config import SolverName, TrainConfig
from train_head.metrics import compute_metrics
from train_head.run import (
    CURVES_FILE,
    PREDICTIONS_FILE,
    Run,
    RunRecord,
    describe_config,
    list_run_examples,
    move_into_place,
    refuse_other_run,
    write_predictions,
    write_run,
)
from train_head.solvers import Fit
from train_head.split import Split, split_examples

Solve = Callable[[FeatureStore, Split, TrainConfig, Console], Fit]


def train_head(config: TrainConfig, console: Console) -> dict[str, Any]:
    """Fits a head on a store's features and keeps it as a run.

    Args:
        config: which store, which head, where to.
        console: where progress goes.

    Returns:
        The run's metrics, as `--json` prints them.

    Raises:
        HeadstartError: anything that a user can mend; no run appears, and an older one stays.
    """
    started = time.monotonic()
    _check_arguments(config)
    store = FeatureStore(config.store)
    if not store.examples and store.num_pending:
        raise HeadstartError(
            config.store,
            "features to train on",
            f"none yet of {store.num_pending:,} pictures",
            "Wait for `python -m extract`, or run it again to go on",
        )
    split = split_examples(store.examples, config.validation_split)
    _tell(store, split, console)
    record = RunRecord(
        config=describe_config(config),
        solver=SolverName.FULL.value,
        store=str(config.store.resolve()),
        fingerprint=store.fingerprint.digest,
        feature_shape=list(store.feature_shape),
        classes=split.classes,
        split_rule=split.rule,
    )
    examples = list_run_examples(split)
    if refuse_other_run(config, record, examples):
        console.say(f"{config.run}: holds this very run already; nothing to do")
        return Run(config.run).read_metrics()
    fit = _choose_solver(config, console)(store, split, config, console)
    metrics = _describe(fit, split, store, record, time.monotonic() - started)
    folder = config.run.resolve()
    aside = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        write_run(aside, record, examples, fit.weights, fit.history, metrics)
        write_predictions(aside / PREDICTIONS_FILE, split.validation, split.classes, fit.validation_probabilities)
        if not config.no_report:
            from train_head.report import draw_curves

            draw_curves(fit.history, f"{folder.name}: {' or '.join(split.classes)}", aside / CURVES_FILE)
        move_into_place(aside, folder)
    except OSError as error:
        raise HeadstartError(
            config.run, "room and permission for the run", str(error), "Make room, or give another --run"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return metrics


def _check_arguments(config: TrainConfig) -> None:
    if not 0 < config.learning_rate < float("inf"):
        raise UsageError("--learning-rate", "a number above 0", f"{config.learning_rate:g}", "1e-4 is the default")


def _tell(store: FeatureStore, split: Split, console: Console) -> None:
    console.say(
        f"{store.path}: {len(split.train):,} training and {len(split.validation):,} validation pictures of "
        f"{', '.join(split.classes)} (by {split.rule})"
    )
    if store.num_pending:
        console.warn(
            f"{store.path}: {store.num_pending:,} of {len(store.images):,} pictures have no features, because "
            "extraction was interrupted or a shard was lost, and are left out; run `python -m extract` again"
        )
    if leaks := split.count_leaks():
        console.warn(
            f"{leaks:,} validation pictures are in the training folder too, byte for byte: "
            "the validation accuracy is flattered"
        )
    _warn_of_conflicts(split, console)


def _warn_of_conflicts(split: Split, console: Console) -> None:
    labels: dict[bytes, set[str]] = {}
    for example in split.train + split.validation:
        labels.setdefault(example.content_hash, set()).add(example.label)
    conflicts = sum(len(found) > 1 for found in labels.values())
    if conflicts:
        console.warn(f"{conflicts:,} pictures are in the folders of several classes")


def _choose_solver(config: TrainConfig, console: Console) -> Solve:
    import_quietly("keras")
    from train_head.solvers.full import fit_full

    console.detail(f"solver: {SolverName.FULL.value}")
    return fit_full


def _describe(fit: Fit, split: Split, store: FeatureStore, record: RunRecord, seconds: float) -> dict[str, Any]:
    number_of = {label: number for number, label in enumerate(split.classes)}
    targets = np.array([number_of[example.label] for example in split.validation])
    last = fit.history[-1]
    return {
        "solver": record.solver,
        "epochs": last.epoch,
        "seconds": round(seconds, 3),
        "train_accuracy": last.accuracy,
        "val_loss": last.val_loss,
        "classes": split.classes,
        **compute_metrics(targets, fit.validation_probabilities, split.classes),
        "num_train": len(split.train),
        "num_validation": len(split.validation),
        "num_leaked": split.count_leaks(),
        "num_pending": store.num_pending,
        "split_rule": split.rule,
    }
