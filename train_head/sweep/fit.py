"""Fits one head of a sweep, and the baselines beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from base.terminal import Console, ConsoleOptions
from train_head.evaluation.baselines import MAJORITY, measure_baselines
from train_head.runs.read import Run
from train_head.runs.tables import RunExample, list_run_examples
from train_head.solvers import ignore_epoch
from train_head.solvers.history import DivergedError, Epoch, PartlyDivergedError
from train_head.sweep.config import SweepConfig
from train_head.sweep.plan import Candidate, Measure
from train_head.sweep.rows import Row, Status, shorten_paths
from train_head.sweep.score import UNSCORED, read_losses, score_baseline, score_run
from train_head.train import train_head


class TrialConsole(Console):
    """Says of many trainings what must not be overlooked, and that once; more only under `-v`."""

    def __init__(self, options: ConsoleOptions) -> None:
        """Makes one from the command's own options."""
        super().__init__(replace(options, quiet=not options.verbose))
        self._told: set[str] = set()

    def warn(self, message: str) -> None:
        """Says a warning, unless it was said of another head."""
        if message not in self._told:
            self._told.add(message)
            super().warn(message)


def fit_candidate(
    candidate: Candidate, config: SweepConfig, console: Console, follow: Callable[[Epoch], None] = ignore_epoch
) -> Row:
    """Fit a head, or find the run that an earlier sweep made of it.

    A trial's folder is named by its values. Where it holds a run of other options or pictures, that run is kept beside
    it under its date, as an earlier run of `train` is: `units-256-2026-11-25-140327`. The table and the best run are
    of this sweep's own trials alone. With `--overwrite`, earlier runs are replaced; those that are the same head on
    the same pictures stay as they are, so that an interrupted `--overwrite` goes on.

    Args:
        candidate: which head.
        config: of the sweep.
        console: where the training's words go.
        follow: told of each epoch; what it raises ends the training, and goes on from here.

    Raises:
        HeadstartError: whatever ends a training but a diverged loss.
    """
    started = time.monotonic()
    status = Status.DONE
    try:
        train_head(candidate.config, console, None, follow, keeps_earlier=not config.overwrite)
    except DivergedError as error:
        seconds = round(time.monotonic() - started, 3)
        return Row(candidate.name, Status.DIVERGED, candidate.values, UNSCORED, epochs=error.row.epoch, seconds=seconds)
    except PartlyDivergedError:
        status = Status.DIVERGED
    run = Run(candidate.config.run)
    metrics, losses = run.read_metrics(), read_losses(run)
    return Row(
        candidate.name,
        status,
        candidate.values,
        score_run(metrics, losses, config.metric) if status is Status.DONE else UNSCORED,
        metrics["val_accuracy"],
        float(losses.mean()),
        metrics["epochs"],
        metrics["seconds"],
        run.folder.relative_to(config.out).as_posix(),
    )


def fit_baselines(measures: Sequence[Measure], config: SweepConfig) -> list[Row]:
    """Fits the baselines: of each store and cut, and what needs no features once for the same pictures."""
    rows = []
    places = shorten_paths(measure.place for measure in measures)
    guessed: set[frozenset[RunExample]] = set()
    for measure in measures:
        started = time.monotonic()
        split, cut = measure.split, measure.store.fingerprint.cut
        num_pictures = len(split.validation) + (len(split.train) if config.folds else 0)
        examples = frozenset(list_run_examples(split))
        for baseline in measure_baselines(measure.store, split, config.folds):
            name = f"{baseline.name}, {places[measure.place]} {cut}" if len(places) > 1 else f"{baseline.name}, {cut}"
            values, seconds = {"store": measure.place, "cut": cut}, time.monotonic() - started
            if baseline.name == MAJORITY:
                if examples in guessed:
                    continue
                name, values, seconds = (name, values, 0.0) if guessed else (MAJORITY, {}, 0.0)
                guessed.add(examples)
            rows.append(
                Row(
                    name,
                    Status.BASELINE,
                    values,
                    score_baseline(baseline, num_pictures, config.metric),
                    baseline.val_accuracy,
                    float(baseline.losses.mean()),
                    seconds=round(seconds, 3),
                )
            )
    return rows
