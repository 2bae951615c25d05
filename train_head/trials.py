"""The fits that a training consists of: the one that is kept, other seeds, and folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import UsageError
from base.files import write_durably
from base.terminal import Console
from features.store import FeatureStore
from train_head.config import TrainConfig
from train_head.data.batches import number_targets
from train_head.data.split import Split, hash_views, list_rows, split_into_folds
from train_head.evaluation.metrics import predict_classes
from train_head.solvers import Fit, Problem, Solve, ignore_epoch
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.history import DivergedError, Epoch, describe_losses

MAX_SEED = 2**32 - 1
"""The largest seed that Keras and NumPy take; each further repeat takes the next one."""
NOT_FITTED = {
    "store",
    "run",
    "weights",
    "cut",
    "repeats",
    "folds",
    "solver",
    "validation_split",
    "no_report",
    "tensorboard",
    "overwrite",
}
"""Options that change nothing about a single fit of given pictures."""


@dataclass(frozen=True)
class Trial:
    """One fit."""

    name: str
    """`repeat 0`, or `fold 2 of repeat 0`."""
    split: Split
    config: TrainConfig


@dataclass(frozen=True)
class Outcome:
    """What a fit came to."""

    val_accuracy: float
    kept_epoch: int
    """0 where there was no good one."""
    bad_epoch: int | None
    """The one whose loss was NaN or infinite, if there was one."""
    last_losses: str


def plan_trials(config: TrainConfig, split: Split) -> list[Trial]:
    """Plans the fits; the first is the one that is kept.

    Args:
        config: says how many repeats and folds.
        split: of the kept fit and its repeats; the folds share out both sides of it anew.

    Raises:
        UsageError: a class has fewer different pictures than there are folds, or a repeat's seed would be too large.
    """
    largest = MAX_SEED + 1 - config.repeats
    if config.seed > largest:
        of_repeats = f" for {config.repeats:,} repeats" if config.repeats > 1 else ""
        raise UsageError("--seed", f"at most {largest}{of_repeats}", str(config.seed), "0 is the default")
    configs = [replace(config, seed=config.seed + repeat) for repeat in range(config.repeats)]
    trials = [Trial(f"repeat {number}", split, each) for number, each in enumerate(configs)]
    if config.folds:
        folds = split_into_folds(split, config.folds)
        trials += [
            Trial(f"fold {fold} of repeat {number}", held_out, each)
            for number, each in enumerate(configs)
            for fold, held_out in enumerate(folds)
        ]
    return trials


def fit_first(
    trials: Sequence[Trial],
    store: FeatureStore,
    solve: Solve,
    folder: Path,
    console: Console,
    follow: Callable[[Epoch], None] = ignore_epoch,
) -> Fit:
    """Fits the trial that is kept.

    Args:
        trials: all of them. The end of the first is kept as well: an interruption while metrics are computed or
            other trials are fitted costs nothing of it.
        store: what to fit on.
        solve: how.
        folder: for checkpoints.
        console: where progress goes.
        follow: told of each epoch.
    """
    checkpoint = Checkpoint(folder / "fit-0.npz", _make_key(trials[0], store, solve), keeps_end=True)
    return solve(Problem(store, trials[0].split, trials[0].config, follow), checkpoint, console)


def fit_others(
    trials: Sequence[Trial], store: FeatureStore, solve: Solve, folder: Path, console: Console
) -> Iterator[Outcome]:
    """Fits the trials after the first, without those that an interrupted training finished.

    Args:
        trials: all of them.
        store: what to fit on.
        solve: how.
        folder: for checkpoints and outcomes.
        console: where progress goes.

    Yields:
        What each came to, up to one whose loss was no number.
    """
    for number, trial in enumerate(trials[1:], 1):
        key = _make_key(trial, store, solve)
        outcome_file = folder / f"outcome-{number}.json"
        outcome = _load_outcome(outcome_file, key)
        if outcome is None:
            checkpoint = Checkpoint(folder / f"fit-{number}.npz", key)
            try:
                fit = solve(Problem(store, trial.split, trial.config), checkpoint, console)
            except DivergedError as error:
                yield Outcome(0.0, 0, error.row.epoch, describe_losses(error.row))
                return
            outcome = judge_fit(fit, trial.split)
            _save_outcome(outcome_file, key, outcome)
            checkpoint.remove()
        trained = f"trained on {len(trial.split.train):,} pictures"
        console.say(f"{trial.name}: validation accuracy {outcome.val_accuracy:.4f}, {trained}")
        yield outcome
        if outcome.bad_epoch is not None:
            return


def judge_fit(fit: Fit, split: Split) -> Outcome:
    """Says what a fit came to on the validation pictures."""
    right = predict_classes(fit.validation_probabilities) == number_targets(split.validation, split.classes)
    last = fit.history[-1]
    bad_epoch = None if last.is_finite else last.epoch
    return Outcome(float(right.mean()), fit.kept_epoch, bad_epoch, describe_losses(last))


def summarize_trials(accuracies: Sequence[float], num_train: Sequence[int] = ()) -> dict[str, Any]:
    """Summarize trials.

    Args:
        accuracies: validation accuracy of each.
        num_train: pictures that each was trained on.

    Returns:
        The accuracies, their mean, their standard deviation (of a sample, n - 1), and `num_train` where it is given.
    """
    return {
        **({"num_train": list(num_train)} if num_train else {}),
        "val_accuracies": list(accuracies),
        "mean": float(np.mean(accuracies)),
        "std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0,
    }


def _make_key(trial: Trial, store: FeatureStore, solve: Solve) -> str:
    """Says what a trial fits, on what, how."""
    config = {name: value for name, value in asdict(trial.config).items() if name not in NOT_FITTED}
    rows = list_rows(store, trial.split.train, trial.config.views)
    sources = store.hash_sources([*rows, *trial.split.validation])
    text = json.dumps([solve.__name__, store.fingerprint.digest, sources, config], default=str)
    digest = hashlib.sha256(text.encode())
    for example in (*trial.split.train, None, *trial.split.validation):
        digest.update(example.content_hash + example.label.encode("utf-8", "surrogateescape") if example else b"|")
    digest.update(hash_views(store, trial.split, trial.config.views).encode())
    return digest.hexdigest()


def _save_outcome(path: Path, key: str, outcome: Outcome) -> None:
    """Writes what a trial came to; a full disk costs the file, not the training."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps({"key": key, **asdict(outcome)}).encode())


def _load_outcome(path: Path, key: str) -> Outcome | None:
    try:
        values = dict(json.loads(path.read_bytes()))
        return Outcome(**values) if values.pop("key") == key else None
    except (OSError, TypeError, ValueError, KeyError):
        # It is missing, or of another Headstart: the trial is fitted again.
        return None
