"""Plan of a sweep: the heads to fit, their names, and whether each can be fitted."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from base.errors import UsageError, require_extra
from features.cuts import list_cuts
from features.options import Pool, split_cuts
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING, SolverName, TrainConfig
from train_head.data.split import Split
from train_head.evaluation.uncertainty import Selection
from train_head.prepare import (
    check_arguments,
    drop_ignored_options,
    get_ignored_options,
    open_training_store,
    resolve_num_views,
    scale_store,
    split_store,
)
from train_head.solvers import Problem, compute_reduced_shape
from train_head.sweep.config import DEFAULT_TRIALS, OPTION, MetricName, SearchName, SweepConfig
from train_head.sweep.rows import shorten_paths
from train_head.sweep.space import Axis, add_default_axes, parse_axes
from train_head.trials import plan_trials

MAX_NAME = 120
"""Longest name of a head in characters; file systems allow 255 bytes."""


@dataclass(frozen=True)
class Candidate:
    """Head to fit."""

    name: str
    """Name of the head; except for a baseline, also that of the folder of its run."""
    values: dict[str, Any]
    """Value of each axis."""
    config: TrainConfig


@dataclass(frozen=True)
class Dataset:
    """Store and its split, on which heads and baselines are fitted and evaluated."""

    path: Path
    """Path of the store as given."""
    config: TrainConfig
    """Options of the first head on it."""
    store: FeatureStore
    split: Split

    @property
    def cut(self) -> str:
        """Cut layer; several are joined by plus signs, as in `--try`."""
        return self.store.fingerprint.cut.replace(",", "+")


@dataclass(frozen=True)
class Plan:
    """Decisions made before the first fit of a sweep."""

    axes: list[Axis]
    candidates: list[Candidate]
    """All heads of a grid; for Optuna the corners of the search space."""
    baselines: list[Candidate]
    """Simple heads to compare the others with."""
    datasets: list[Dataset]
    selection: Selection
    """Numbers of heads and epochs from which the best head is chosen."""


def plan_sweep(config: SweepConfig) -> Plan:
    """Plan a sweep and check that every head can be fitted, without fitting or writing.

    Raises:
        UsageError: an option or a combination of values is invalid.
        HeadstartError: a store is missing or damaged, or has too few pictures.
    """
    is_optuna = config.search is SearchName.OPTUNA
    if is_optuna:
        require_extra("optuna", "--search optuna", "sweep SEARCH=optuna")
    elif config.trials:
        raise UsageError("--trials", "--search optuna", "--search grid", "Add --search optuna, or omit --trials")
    if config.metric is MetricName.VAL_LOSS and (config.folds or config.repeats > 1):
        advice = "Omit --folds and --repeats, or rank by val_accuracy"
        raise UsageError("--metric", "val_accuracy with --folds or --repeats", "val_loss", advice)
    if config.out.is_file():
        raise UsageError(config.out, "a folder for the sweep", "a file", f"Give another {OPTION}")
    axes = add_default_axes(parse_axes(config.tries or [], takes_ranges=is_optuna), config)
    candidates = plan_grid(config, axes)
    datasets = check_candidates(candidates)
    baselines = plan_baselines(config, candidates, datasets)
    selection = plan_selection(config, axes, candidates, len(baselines))
    return Plan(axes, candidates, baselines, datasets, selection)


def plan_grid(config: SweepConfig, axes: Sequence[Axis]) -> list[Candidate]:
    """Plan a head for every combination of values, the last axis changing fastest; of a range, use its two ends.

    Combinations that give the same head, because an option has no effect, are planned once.
    """
    names = [axis.name for axis in axes]
    combinations = itertools.product(*(axis.values for axis in axes))
    planned = [plan_candidate(config, dict(zip(names, values, strict=True))) for values in combinations]
    return list({candidate.name: candidate for candidate in planned}.values())


def plan_candidate(config: SweepConfig, values: dict[str, Any]) -> Candidate:
    """Plan the head with the given values, without those that have no effect."""
    ignored = get_ignored_options(config.make_train_config("", values))
    values = {name: value for name, value in values.items() if name not in ignored}
    name = name_candidate(values)
    head = drop_ignored_options(config.make_train_config(name, values))
    if values.get("unfreeze_from") == NO_FINE_TUNING and not head.cut and list_cuts(head.store):
        # A head without fine-tuning uses the same cut as the fine-tuned heads, so that their scores are comparable.
        from train_head.finetuning.backbone import TOP

        head = replace(head, cut=TOP)
    return Candidate(name, values, head)


def plan_baselines(
    config: SweepConfig, candidates: Sequence[Candidate], datasets: Sequence[Dataset]
) -> list[Candidate]:
    """Plan a ridge head on the channel means of each dataset, unless it is among the candidates."""
    names = shorten_paths(dataset.path for dataset in datasets)
    planned = []
    for dataset in datasets:
        path, cut, pool = dataset.path, dataset.store.fingerprint.cut, dataset.config.pool
        if pool is Pool.NONE and len(dataset.store.feature_shape) == 3:
            pool = Pool.AVG
        is_planned = any(
            found.solver is SolverName.RIDGE and (found.store, found.pool) == (path, pool)
            for found in (candidate.config for candidate in candidates)
            if split_cuts(found.cut) in ([""], split_cuts(cut)) and found.rank is None
        )
        if not is_planned:
            options = {"store": path, "cut": cut, "pool": pool, "solver": SolverName.RIDGE}
            folder = name_candidate(({"store": path} if len(names) > 1 else {}) | {"cut": cut, "solver": "ridge"})
            head = config.make_train_config(folder, options | {"unfreeze_from": NO_FINE_TUNING, "rank": None})
            label = f"ridge, {names[path]} {dataset.cut}" if len(names) > 1 else f"ridge, {dataset.cut}"
            planned.append(Candidate(label, {"store": path, "cut": dataset.cut}, drop_ignored_options(head)))
    return planned


def name_candidate(values: Mapping[str, Any]) -> str:
    """Return a readable name for the folder of a head, such as `cut-mixed7_units-256_dropout-0.2`.

    The name is valid on every file system and depends only on the values. If the values are too long or contain
    characters other than letters, digits and `_.+-`, a hash of them is appended. Only the last part of a path is used,
    so that names reveal no local paths.
    """
    pairs = [(name.replace("_", "-"), value) for name, value in values.items()]
    whole = "_".join(f"{name}-{value}" for name, value in pairs) or "head"
    plain = "_".join(f"{name}-{value.name if isinstance(value, Path) else value}" for name, value in pairs) or "head"
    safe = re.sub(r"[^A-Za-z0-9_.+-]", "-", plain)
    if safe == whole and len(whole) <= MAX_NAME:
        return whole
    digest = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{safe[:MAX_NAME]}_{digest}"


def plan_selection(
    config: SweepConfig, axes: Sequence[Axis], candidates: Sequence[Candidate], num_baselines: int
) -> Selection:
    """Count the heads and epochs from which the best head is chosen.

    A search chooses heads by earlier results, so every head that it could have fitted counts.
    """
    num_epochs = max(Selection.of_epochs(candidate.config).num_epochs for candidate in candidates)
    if config.search is SearchName.GRID:
        return Selection(len(candidates) + num_baselines, num_epochs, config.metric.value)
    num_heads, num_possible = config.trials or DEFAULT_TRIALS, math.prod(axis.count_values() for axis in axes)
    if num_possible <= num_heads:
        return Selection(num_possible + num_baselines, num_epochs, config.metric.value)
    num_heads, num_possible = num_heads + num_baselines, num_possible + num_baselines
    return Selection(num_heads, num_epochs, config.metric.value, num_possible)


def check_candidates(candidates: Sequence[Candidate]) -> list[Dataset]:
    """Check that every head can be fitted, and return a dataset for each store and cut, in the order of the heads.

    Raises:
        UsageError: a head cannot be fitted; `where` contains its values.
        HeadstartError: a store is missing or damaged, or has too few pictures.
    """
    datasets: dict[tuple[Any, ...], Dataset] = {}
    for candidate in candidates:
        config = candidate.config
        key = (config.store, config.cut, config.unfreeze_from, config.pool)
        try:
            check_arguments(config)
            if key not in datasets:
                store = open_training_store(config)
                split = split_store(store, config)
                datasets[key] = Dataset(config.store, config, scale_store(store, split), split)
            _check_fits(config, datasets[key])
        except UsageError as error:
            values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in candidate.values.items())
            where = f"{values}: {error.where}" if values else error.where
            raise UsageError(where, error.expected, error.got, error.advice) from error
    # Pooled and unpooled features belong to the same pictures: keep the first dataset of each store and cut.
    first = {key[:-1]: key for key in reversed(datasets)}
    return [dataset for key, dataset in datasets.items() if key in first.values()]


def count_different_validation_sets(datasets: Sequence[Dataset]) -> int:
    """Count the datasets whose validation pictures differ from those of the first."""
    hashes = [sorted(example.content_hash for example in dataset.split.validation) for dataset in datasets]
    return sum(other != hashes[0] for other in hashes)


def _check_fits(config: TrainConfig, dataset: Dataset) -> None:
    fits = plan_trials(replace(config, views=resolve_num_views(dataset.store, config.views)), dataset.split)
    if config.rank and config.solver is not SolverName.FULL:
        for fit in fits:
            compute_reduced_shape(Problem(dataset.store, fit.split, fit.config))
