"""Fitting of the heads and the baselines of a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from base.terminal import Console, ConsoleOptions
from train_head.evaluation.baselines import MAJORITY, measure_majority
from train_head.evaluation.metrics import list_losses
from train_head.runs.read import Run
from train_head.runs.tables import list_run_examples
from train_head.solvers import ignore_epoch
from train_head.solvers.history import DivergedError, Epoch, PartlyDivergedError
from train_head.sweep.config import SweepConfig
from train_head.sweep.plan import Candidate, Dataset
from train_head.sweep.rows import UNSCORED, Row, Status, score_run, shorten_paths
from train_head.train import train_head


class TrialConsole(Console):
    """Console for many trainings: each warning is printed once, and progress only with `-v`."""

    def __init__(self, options: ConsoleOptions) -> None:
        """Create the console from the options of the command."""
        super().__init__(replace(options, quiet=not options.verbose))
        self._warned: set[str] = set()

    def warning(self, message: str) -> None:
        """Print a warning unless it was printed for another head."""
        if message not in self._warned:
            self._warned.add(message)
            super().warning(message)


def fit_candidate(
    candidate: Candidate,
    config: SweepConfig,
    num_candidates: int,
    console: Console,
    on_epoch_end: Callable[[Epoch], None] = ignore_epoch,
) -> Row:
    """Fit a head, or reuse its run from an earlier sweep.

    If the head's folder holds a run with other options or pictures, that run is kept beside it with its date in the
    name, as in `train`: `units-256-2026-11-25-140327`. With `--overwrite` it is replaced. A run of the same head on the
    same pictures is reused even with `--overwrite`, so that an interrupted sweep can continue.

    Args:
        candidate: the head.
        config: options of the sweep.
        num_candidates: number of candidates from which the best is chosen: heads times epochs, as in `Selection`.
        console: output of messages and progress.
        on_epoch_end: called after each epoch; an exception ends the training.

    Raises:
        HeadstartError: the training failed; a diverged loss is a status of the row instead.
    """
    started = time.monotonic()
    status = Status.DONE
    try:
        train_head(candidate.config, console, None, on_epoch_end, keeps_earlier=not config.overwrite)
    except DivergedError as error:
        seconds = round(time.monotonic() - started, 3)
        return Row(candidate.name, Status.DIVERGED, candidate.values, UNSCORED, epochs=error.row.epoch, seconds=seconds)
    except PartlyDivergedError:
        status = Status.DIVERGED
    run = Run(candidate.config.run)
    metrics, losses = run.read_metrics(), list_losses(*run.read_probabilities())
    score = UNSCORED if status is Status.DIVERGED else score_run(metrics, losses, config.metric, num_candidates)
    loss, folder = float(losses.mean()), run.folder.relative_to(config.out).as_posix()
    results = (metrics["val_accuracy"], loss, metrics["epochs"], metrics["seconds"], folder)
    return Row(candidate.name, status, candidate.values, score, *results)


def measure_baselines(datasets: Sequence[Dataset], config: SweepConfig) -> list[Row]:
    """Measure the baseline of each dataset, but only once for the same pictures."""
    splits = {frozenset(list_run_examples(dataset.split)): dataset for dataset in reversed(datasets)}
    names = shorten_paths(dataset.path for dataset in datasets)
    rows = []
    for dataset in reversed(splits.values()):
        split = dataset.split
        found, name, values = measure_majority(split, config.folds), MAJORITY, dict[str, Any]()
        if len(splits) > 1:
            name = f"{MAJORITY}, {names[dataset.path]} {dataset.cut}"
            values = {"store": dataset.path, "cut": dataset.cut}
        metrics = {
            "num_train": len(split.train),
            "num_validation": len(split.validation),
            "val_accuracy": found.val_accuracy,
            "folds": {"val_accuracies": found.fold_accuracies} if config.folds else None,
        }
        score = score_run(metrics, found.losses, config.metric)
        rows.append(Row(name, Status.BASELINE, values, score, found.val_accuracy, float(found.losses.mean())))
    return rows
