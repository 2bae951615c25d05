"""Chooses a solver by the problem's shape alone: free memory and the number of processors change between runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from base.terminal import format_bytes
from train_head.config import SolverName
from train_head.reduction.reduce import choose_rank, list_unique
from train_head.solvers import Problem

MAX_TRAINING_BYTES = 768 * 2**20
"""Of the training matrix on reduced inputs: with validation, catalog and products a process stays below 2 GB."""


@dataclass(frozen=True)
class Sizes:
    """The shape of the matrix that the reduced solver would hold."""

    num_rows: int
    """Different training rows: views of pictures that differ."""
    rank: int

    @property
    def num_bytes(self) -> int:
        """Of float32 numbers."""
        return 4 * self.num_rows * self.rank


def measure_sizes(problem: Problem) -> Sizes:
    """Return a problem's sizes; raise UsageError where more inputs are to be kept than the rows can span."""
    num_rows = len(list_unique(problem.list_training_rows()).examples)
    num_inputs = int(np.prod(problem.store.feature_shape))
    return Sizes(num_rows, choose_rank(problem.config.rank, num_rows, num_inputs))


def choose_solver(sizes: Sizes) -> tuple[SolverName, str]:
    """Return the reduced solver unless its training matrix is too large to be held, and why; pure."""
    solver = SolverName.FULL if sizes.num_bytes > MAX_TRAINING_BYTES else SolverName.REDUCED
    return solver, f"{sizes.num_rows:,} rows of {sizes.rank:,} inputs, {format_bytes(sizes.num_bytes)}"
