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
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING, SolverName, TrainConfig
from train_head.data.split import Split
from train_head.evaluation.uncertainty import Selection
from train_head.prepare import check_arguments, open_training_store, resolve_num_views, split_store
from train_head.solvers import Problem, compute_reduced_shape
from train_head.sweep.config import DEFAULT_TRIALS, MetricName, SearchName, SweepConfig
from train_head.sweep.space import Axis, add_default_axes, parse_axes
from train_head.trials import plan_trials

MAX_NAME = 120
"""Characters of a folder's name; file systems take 255 bytes."""


@dataclass(frozen=True)
class Candidate:
    """A head to be tried."""

    name: str
    """Name of its run's folder."""
    values: dict[str, Any]
    """Its value of each axis."""
    config: TrainConfig


@dataclass(frozen=True)
class Dataset:
    """A store and its split, which heads and baselines are measured on."""

    place: Path
    """The store as `--store` names it."""
    store: FeatureStore
    split: Split


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep decides before it fits."""

    axes: list[Axis]
    candidates: list[Candidate]
    """Every head of a grid; for optuna, which chooses others, the corners of what it searches."""
    datasets: list[Dataset]
    selection: Selection
    """The choice that the best head will be the result of."""


def plan_sweep(config: SweepConfig) -> Plan:
    """Plan a sweep, and check that all of it can be done; fit and write nothing.

    Raises:
        UsageError, HeadstartError: an option, a combination or a store that cannot be used.
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
    axes = add_default_axes(parse_axes(config.tries or [], takes_ranges=is_optuna), config)
    candidates = plan_grid(config, axes)
    return Plan(axes, candidates, check_candidates(candidates), plan_selection(config, axes, candidates))


def plan_grid(config: SweepConfig, axes: Sequence[Axis]) -> list[Candidate]:
    """Plan a head for every combination, the last axis changing fastest; of a range, for both its ends."""
    names = [axis.name for axis in axes]
    combinations = itertools.product(*(axis.values for axis in axes))
    return [plan_candidate(config, dict(zip(names, values, strict=True))) for values in combinations]


def plan_candidate(config: SweepConfig, values: dict[str, Any]) -> Candidate:
    """Plan the head that has the given values."""
    name = name_candidate(values)
    head = config.make_train_config(name, values)
    if values.get("unfreeze_from") == NO_FINE_TUNING and not head.cut and list_cuts(head.store):
        # Beside heads with layers trained again below them, one alone begins at the same place.
        from train_head.finetuning.backbone import TOP

        head = replace(head, cut=TOP)
    return Candidate(name, values, head)


def name_candidate(values: Mapping[str, Any]) -> str:
    """Name a head by its values: readable, the same each time, and a folder's name everywhere.

    `cut-mixed7_units-256_dropout-0.2`; where that would be too long, or values hold what a name cannot, a hash of
    the values makes up for what is lost. Of a store's path only the last part is shown: a sweep may be passed on.
    """
    pairs = [(name.replace("_", "-"), value) for name, value in values.items()]
    whole = "_".join(f"{name}-{value}" for name, value in pairs) or "head"
    plain = "_".join(f"{name}-{value.name if isinstance(value, Path) else value}" for name, value in pairs) or "head"
    safe = re.sub(r"[^A-Za-z0-9_.+-]", "-", plain)
    if safe == whole and len(whole) <= MAX_NAME:
        return whole
    digest = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{safe[:MAX_NAME]}_{digest}"


def plan_selection(config: SweepConfig, axes: Sequence[Axis], candidates: Sequence[Candidate]) -> Selection:
    """Count the heads and epochs that the best head will have been chosen from.

    A search looks at results to decide what to try next, so that any head it could have come to counts.
    """
    num_epochs = max(Selection.of_epochs(candidate.config).num_epochs for candidate in candidates)
    if config.search is SearchName.GRID:
        return Selection(len(candidates), num_epochs, config.metric.value)
    num_heads, num_possible = config.trials or DEFAULT_TRIALS, math.prod(axis.count_values() for axis in axes)
    if num_possible <= num_heads:
        return Selection(num_possible, num_epochs, config.metric.value)
    return Selection(num_heads, num_epochs, config.metric.value, num_possible)


def check_candidates(candidates: Sequence[Candidate]) -> list[Dataset]:
    """Check that every head can be fitted, before any is; return a dataset for each store and cut, in their order.

    Raises:
        UsageError: one cannot be fitted; names it by its values.
        HeadstartError: a store is missing or damaged, or has nothing to train on.
    """
    datasets: dict[tuple[Any, ...], Dataset] = {}
    for candidate in candidates:
        config = candidate.config
        place = (config.store, config.cut, config.unfreeze_from, config.pool)
        try:
            check_arguments(config)
            if place not in datasets:
                store = open_training_store(config)
                datasets[place] = Dataset(config.store, store, split_store(store, config))
            _check_fits(config, datasets[place])
        except UsageError as error:
            values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in candidate.values.items())
            where = f"{values}: {error.where}" if values else error.where
            raise UsageError(where, error.expected, error.got, error.advice) from error
    # Pooled features are of the same pictures: the first measure of a store and cut will do.
    first = {place[:-1]: place for place in reversed(datasets)}
    return [dataset for place, dataset in datasets.items() if place in first.values()]


def count_different_validation_sets(datasets: Sequence[Dataset]) -> int:
    """Count the datasets whose validation pictures are not those of the first: accuracies that do not compare."""
    sides = [sorted(example.content_hash for example in dataset.split.validation) for dataset in datasets]
    return sum(side != sides[0] for side in sides)


def _check_fits(config: TrainConfig, dataset: Dataset) -> None:
    fits = plan_trials(replace(config, views=resolve_num_views(dataset.store, config.views)), dataset.split)
    if config.rank and config.solver is not SolverName.FULL:
        for fit in fits:
            compute_reduced_shape(Problem(dataset.store, fit.split, fit.config))
