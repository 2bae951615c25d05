"""Solvers, which fit a head on stored features: their input and their result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from base.terminal import Console, format_bytes, format_count
from features.store import Example, FeatureStore
from train_head.config import SolverName, TrainConfig
from train_head.data.batches import Array
from train_head.data.split import Split, list_rows
from train_head.reduction.record import Reduction
from train_head.reduction.reduce import choose_rank, list_unique
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch

DEFAULT_SOLVER = SolverName.REDUCED
"""Solver of problems of every size that `auto` chooses: its time and memory grow least with the number of pictures."""


def ignore_epoch(_: Epoch) -> None:
    """Do nothing after an epoch: the default of `on_epoch_end`."""


@dataclass(frozen=True)
class Problem:
    """Input of a solver: training and validation examples of a store, and the options of the fit."""

    store: FeatureStore
    split: Split
    config: TrainConfig
    on_epoch_end: Callable[[Epoch], None] = ignore_epoch
    """Called after each epoch. A resumed fit calls it for the epochs before the interruption first."""

    def list_training_rows(self) -> list[Example]:
        """List the training examples, followed by their further views."""
        return list_rows(self.store, self.split.train, self.config.views)


@dataclass(frozen=True)
class LeaveOneOut:
    """Result of fits that each leave one training picture out."""

    penalty: float
    """Penalty with the lowest error, relative to the mean squared length of a centred row of features."""
    num_right: int
    """Number of training pictures that are classified correctly by a head that was fitted without them."""


@dataclass(frozen=True)
class Fit:
    """Result of a solver: a fitted head and its history."""

    weights: HeadWeights
    """Weights of the kept epoch. With a `reduction`, the hidden kernel is (r, units) on reduced inputs."""
    history: list[Epoch]
    kept_epoch: int
    """Number of the epoch whose weights are kept, from 1."""
    train_probabilities: Array
    """(training examples, classes) float32, computed by the kept head without dropout."""
    validation_probabilities: Array
    """(validation examples, classes) float32, computed by the kept head."""
    reduction: Reduction | None = None
    """Reduction of the inputs; None for a head on all inputs."""
    before_tuning: Epoch | None = None
    """Kept epoch of the head before fine-tuning; None without fine-tuning."""
    leave_one_out: LeaveOneOut | None = None
    """Leave-one-out result of the solver ridge; None for the others."""


Solve = Callable[[Problem, Checkpoint, Console], Fit]


@dataclass(frozen=True)
class ReducedShape:
    """Shape of the reduced solver's training matrix."""

    num_rows: int
    """Number of distinct training rows, one for each content hash and view."""
    rank: int
    """Number of reduced inputs."""

    def describe(self) -> str:
        """Describe the shape and the size of the matrix."""
        rows, inputs = format_count(self.num_rows, "row"), format_count(self.rank, "input")
        return f"{rows} of {inputs}, {format_bytes(4 * self.num_rows * self.rank)}"


def compute_reduced_shape(problem: Problem) -> ReducedShape:
    """Return the shape of a problem's reduced training matrix; raise UsageError if `rank` is too large."""
    num_rows = len(list_unique(problem.list_training_rows()).examples)
    num_inputs = int(np.prod(problem.store.feature_shape))
    return ReducedShape(num_rows, choose_rank(problem.config.rank, num_rows, num_inputs))
