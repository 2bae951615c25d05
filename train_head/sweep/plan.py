"""Plans a sweep: which heads there will be, what each is called, and whether each can be."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from base.errors import UsageError
from features.cuts import list_cuts
from features.store import FeatureStore
from train_head.config import NOTHING, SolverName, TrainConfig
from train_head.data.split import Split
from train_head.evaluation.uncertainty import Selection
from train_head.prepare import check_arguments, open_training_store, settle_views, split_store
from train_head.solvers import Problem, measure_sizes
from train_head.sweep.config import DEFAULT_TRIALS, SearchName, SweepConfig
from train_head.sweep.space import Axis
from train_head.trials import plan_trials

MAX_NAME = 120
"""Characters of a folder's name; file systems take 255 bytes."""


@dataclass(frozen=True)
class Candidate:
    """A head to be tried."""

    name: str
    """Of its run's folder."""
    values: dict[str, Any]
    """Of each axis its value."""
    config: TrainConfig


@dataclass(frozen=True)
class Measure:
    """What heads are measured on: a store's split; the baselines are measured on the same."""

    place: Path
    """As `--store` names it."""
    store: FeatureStore
    split: Split


def plan_grid(config: SweepConfig, axes: Sequence[Axis]) -> list[Candidate]:
    """Plans a head for every combination, the last axis changing fastest; of a range, for both its ends."""
    names = [axis.name for axis in axes]
    combinations = itertools.product(*(axis.values for axis in axes))
    return [plan_candidate(config, dict(zip(names, values, strict=True))) for values in combinations]


def plan_candidate(config: SweepConfig, values: Mapping[str, Any]) -> Candidate:
    """Plans the head that has the given values."""
    name, head = name_candidate(values), config.make_training(name_candidate(values), values)
    if values.get("unfreeze_from") == NOTHING and not head.cut and list_cuts(head.store):
        # Beside heads with layers trained again below them, one alone stands at the same place.
        from train_head.finetuning.backbone import TOP

        head = replace(head, cut=TOP)
    return Candidate(name, dict(values), head)


def name_candidate(values: Mapping[str, Any]) -> str:
    """Names a head by its values: readable, the same each time, and a folder's name everywhere.

    `cut-mixed7_units-256_dropout-0.2`; where that would be too long, or values hold what a name cannot, a hash of
    the values makes up for what is lost. Of a store's path only the last part is shown: a sweep may be passed on.
    """
    if not values:
        return "head"

    def join(shown: Mapping[str, Any]) -> str:
        return "_".join(f"{name.replace('_', '-')}-{value}" for name, value in shown.items())

    whole = join(values)
    plain = join({name: value.name if isinstance(value, Path) else value for name, value in values.items()})
    safe = re.sub(r"[^A-Za-z0-9_.+-]", "-", plain)
    if safe == whole and len(whole) <= MAX_NAME:
        return whole
    digest = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{safe[:MAX_NAME]}_{digest}"


def describe_values(values: Mapping[str, Any]) -> str:
    """Says which head it is: `cut mixed7, units 256`."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def plan_selection(config: SweepConfig, axes: Sequence[Axis], candidates: Sequence[Candidate]) -> Selection:
    """Plan what the best head will have been chosen from.

    Args:
        config: of the sweep.
        axes: what is tried.
        candidates: every head of a grid; for optuna the corners of what it searches.

    A search looks at results to decide what to try next, so that any head it could have come to counts.
    """
    num_epochs = max(Selection.of_epochs(candidate.config).num_epochs for candidate in candidates)
    if config.search is SearchName.GRID:
        return Selection(len(candidates), num_epochs, config.metric.value)
    num_heads, num_possible = config.trials or DEFAULT_TRIALS, math.prod(axis.count_values() for axis in axes)
    if num_possible <= num_heads:
        return Selection(num_possible, num_epochs, config.metric.value)
    return Selection(num_heads, num_epochs, config.metric.value, num_possible)


def check_candidates(candidates: Sequence[Candidate]) -> list[Measure]:
    """Makes sure that every head can be fitted, before any is.

    Returns:
        What they are measured on: one for each store and cut, in the order of the heads.

    Raises:
        UsageError: one cannot be; says which.
        HeadstartError: a store is missing or damaged, or has nothing to train on.
    """
    stores: dict[tuple[Any, ...], FeatureStore] = {}
    splits: dict[tuple[Any, ...], Split] = {}
    measures: dict[tuple[Any, ...], Measure] = {}
    for candidate in candidates:
        config = candidate.config
        place = (config.store, config.cut, config.unfreeze_from)
        try:
            check_arguments(config)
            if (*place, config.pool) not in stores:
                stores[*place, config.pool] = open_training_store(config)
            store = stores[*place, config.pool]
            if place not in splits:
                splits[place] = split_store(store, config)
            split = splits[place]
            _check_fits(config, store, split)
        except UsageError as error:
            where = f"{describe_values(candidate.values)}: {error.where}" if candidate.values else error.where
            raise UsageError(where, error.expected, error.got, error.advice) from error
        measures.setdefault(place, Measure(config.store, store, split))
    return list(measures.values())


def count_other_pictures(measures: Sequence[Measure]) -> int:
    """Counts the measures whose validation pictures are not those of the first: accuracies that do not compare."""
    sides = [sorted(example.content_hash for example in measure.split.validation) for measure in measures]
    return sum(side != sides[0] for side in sides)


def _check_fits(config: TrainConfig, store: FeatureStore, split: Split) -> None:
    settled = replace(config, views=settle_views(store, config.views))
    fits = plan_trials(settled, split)
    if config.rank and config.solver is not SolverName.FULL:
        for fit in fits:
            measure_sizes(Problem(store, fit.split, fit.config))
