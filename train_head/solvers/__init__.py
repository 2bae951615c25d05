"""Solvers: how a head is fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from base.terminal import Console, format_bytes
from features.store import Example, FeatureStore
from train_head.config import SolverName, TrainConfig
from train_head.data.batches import Array
from train_head.data.split import Split, list_rows
from train_head.reduction.record import Reduction
from train_head.reduction.reduce import choose_rank, list_unique
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch

MAX_TRAINING_BYTES = 768 * 2**20
"""Largest training matrix on reduced inputs: with validation, catalog and products a process stays below 2 GB."""


def ignore_epoch(_: Epoch) -> None:
    """Follow no fit."""


@dataclass(frozen=True)
class Problem:
    """A head to fit on examples of a store."""

    store: FeatureStore
    split: Split
    config: TrainConfig
    on_epoch_end: Callable[[Epoch], None] = ignore_epoch
    """Called after each epoch, and for those before an interruption too."""

    def list_training_rows(self) -> list[Example]:
        """List the training examples, then the further views of each that are trained on."""
        return list_rows(self.store, self.split.train, self.config.views)


@dataclass(frozen=True)
class Fit:
    """A fitted head and its history."""

    weights: HeadWeights
    """Weights of the kept epoch; on reduced inputs where there is a reduction."""
    history: list[Epoch]
    kept_epoch: int
    train_probabilities: Array
    """(training examples, classes) of the kept head, nothing dropped."""
    validation_probabilities: Array
    """(validation examples, classes)."""
    reduction: Reduction | None = None
    before_tuning: Epoch | None = None
    """The kept epoch of the head alone, where layers of the backbone were trained after it."""


Solve = Callable[[Problem, Checkpoint, Console], Fit]


@dataclass(frozen=True)
class ReducedShape:
    """The shape of the matrix that the reduced solver would hold."""

    num_rows: int
    """Different training rows: views of pictures that differ."""
    rank: int


def compute_reduced_shape(problem: Problem) -> ReducedShape:
    """Return a problem's sizes; raise UsageError where more inputs are to be kept than the rows can span."""
    num_rows = len(list_unique(problem.list_training_rows()).examples)
    num_inputs = int(np.prod(problem.store.feature_shape))
    return ReducedShape(num_rows, choose_rank(problem.config.rank, num_rows, num_inputs))


def choose_solver(sizes: ReducedShape) -> tuple[SolverName, str]:
    """Choose the reduced solver unless its training matrix is too large, whatever memory is free; return why."""
    num_bytes = 4 * sizes.num_rows * sizes.rank
    solver = SolverName.FULL if num_bytes > MAX_TRAINING_BYTES else SolverName.REDUCED
    return solver, f"{sizes.num_rows:,} rows of {sizes.rank:,} inputs, {format_bytes(num_bytes)}"
