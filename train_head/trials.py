"""The fits of a training: the one that is kept, its repeats with other seeds, and its folds."""

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
from base.terminal import Console, format_count
from features.store import FeatureStore
from train_head.config import TrainConfig
from train_head.data.folds import split_into_folds
from train_head.data.split import Split, hash_views, list_rows
from train_head.evaluation.metrics import find_correct
from train_head.evaluation.uncertainty import name_accuracy
from train_head.solvers import Fit, Problem, Solve, ignore_epoch
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.history import DivergedError, Epoch

MAX_SEED = 2**32 - 1
"""Largest seed that Keras and NumPy accept. Each repeat uses the next seed."""
_NOT_IN_KEY = {
    *("store", "run", "weights", "cut", "repeats", "folds", "solver"),
    *("validation_split", "split", "no_report", "tensorboard", "overwrite", "false_alarms", "distribute"),
}
"""Options left out of the key: they do not affect a single fit, or other parts of the key cover them."""


@dataclass(frozen=True)
class Trial:
    """One planned fit."""

    name: str
    """Name in messages and metrics, such as `repeat 0` or `fold 2 of repeat 0`."""
    split: Split
    config: TrainConfig


@dataclass(frozen=True)
class Outcome:
    """Result of a fit on its validation pictures."""

    val_accuracy: float
    kept_epoch: int
    """Number of the epoch whose weights are kept, from 1; 0 if no epoch had a finite loss."""
    bad_epoch: int | None
    """Number of the epoch whose loss was NaN or infinite; None if all were finite."""
    last_losses: str


def plan_trials(config: TrainConfig, split: Split) -> list[Trial]:
    """Plan the fits. The first one is kept. Raise UsageError for a seed that is too large or for too many folds."""
    largest = MAX_SEED + 1 - config.repeats
    if config.seed > largest:
        suffix = f" for {config.repeats:,} repeats" if config.repeats > 1 else ""
        raise UsageError("--seed", f"at most {largest}{suffix}", str(config.seed), "Give a smaller seed")
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
    on_epoch_end: Callable[[Epoch], None] = ignore_epoch,
) -> Fit:
    """Fit the trial that is kept. Its result stays in the checkpoint folder, because later work may be interrupted."""
    checkpoint = Checkpoint(folder / "fit-0.npz", _make_key(trials[0], store, solve), keep_final=True)
    return solve(Problem(store, trials[0].split, trials[0].config, on_epoch_end), checkpoint, console)


def fit_others(
    trials: Sequence[Trial], store: FeatureStore, solve: Solve, folder: Path, console: Console
) -> Iterator[Outcome]:
    """Fit the remaining trials, except those finished before an interruption; stop after one that diverged."""
    for number, trial in enumerate(trials[1:], 1):
        key = _make_key(trial, store, solve)
        outcome_file = folder / f"outcome-{number}.json"
        outcome = _load_outcome(outcome_file, key)
        if outcome is None:
            checkpoint = Checkpoint(folder / f"fit-{number}.npz", key)
            try:
                fit = solve(Problem(store, trial.split, trial.config), checkpoint, console)
            except DivergedError as error:
                yield Outcome(0.0, 0, error.row.epoch, error.row.describe_losses())
                return
            outcome = evaluate_fit(fit, trial.split)
            # A full disk must not end the training.
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                write_durably(outcome_file, json.dumps({"key": key, **asdict(outcome)}).encode())
            checkpoint.remove()
        pictures = format_count(len(trial.split.train), "picture")
        accuracy = name_accuracy(is_multi_label=trial.split.is_multi_label)
        console.info(f"{trial.name}: validation {accuracy} {outcome.val_accuracy:.4f}, trained on {pictures}")
        yield outcome
        if outcome.bad_epoch is not None:
            return


def evaluate_fit(fit: Fit, split: Split) -> Outcome:
    """Evaluate a fit on its validation pictures."""
    is_correct = find_correct(split.encode(split.validation), fit.validation_probabilities)
    last = fit.history[-1]
    bad_epoch = None if last.is_finite else last.epoch
    return Outcome(float(is_correct.mean()), fit.kept_epoch, bad_epoch, last.describe_losses())


def summarize_trials(trials: Sequence[Trial], outcomes: Sequence[Outcome], config: TrainConfig) -> dict[str, Any]:
    """Summarize the requested repeats and folds, and the first fit that diverged."""
    done = list(zip(trials, outcomes, strict=False))
    summaries: dict[str, Any] = {"diverged": None}
    for kind, is_requested in (("repeat", config.repeats > 1), ("fold", config.folds > 0)):
        finite = [(t, o) for t, o in done if t.name.startswith(kind) and o.bad_epoch is None]
        if is_requested and finite:
            accuracies = [outcome.val_accuracy for _, outcome in finite]
            summaries[f"{kind}s"] = {
                "val_accuracies": accuracies,
                "mean": float(np.mean(accuracies)),
                "std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0,
                "num_train": [len(trial.split.train) for trial, _ in finite],
                "num_planned": sum(trial.name.startswith(kind) for trial in trials),
            }
    for trial, outcome in done:
        if outcome.bad_epoch is not None:
            summaries["diverged"] = {
                "trial": trial.name,
                "epoch": outcome.bad_epoch,
                "losses": outcome.last_losses,
                "kept_epoch": outcomes[0].kept_epoch,
            }
            break
    return summaries


def _make_key(trial: Trial, store: FeatureStore, solve: Solve) -> str:
    """Return a digest of everything that determines a fit."""
    config = {name: value for name, value in asdict(trial.config).items() if name not in _NOT_IN_KEY}
    rows = list_rows(store, trial.split.train, trial.config.views)
    sources = store.hash_sources([*rows, *trial.split.validation])
    text = json.dumps([solve.__name__, store.fingerprint.digest, sources, config], default=str)
    digest = hashlib.sha256(text.encode())
    for example in (*trial.split.train, None, *trial.split.validation):
        digest.update(example.content_hash + example.label.encode("utf-8", "surrogateescape") if example else b"|")
    digest.update(hash_views(store, trial.split, trial.config.views).encode())
    return digest.hexdigest()


def _load_outcome(path: Path, key: str) -> Outcome | None:
    try:
        values = dict(json.loads(path.read_bytes()))
        return Outcome(**values) if values.pop("key") == key else None
    except (OSError, TypeError, ValueError, KeyError):
        # Missing, damaged, or written by another version: the trial is fitted again.
        return None
