"""Chooses a solver by what each would cost in time and memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.console import format_bytes, format_seconds
from features.schema import FEATURE_DTYPE
from train_head.config import SolverName
from train_head.reduction.decompose import MAX_EXACT_ROWS, OVERSAMPLING
from train_head.reduction.reduce import choose_rank
from train_head.reduction.rows import BLOCK_BYTES, HELD_BYTES
from train_head.solvers import Problem

# Measured on two cores with AVX-512 by `python -m benchmarks.solvers`; only their proportions matter.
FLOPS_PER_SECOND = 1.2e11
BYTES_PER_SECOND = 1.2e10
"""What an optimizer's pass over the weights moves."""
ROWS_DECODED_PER_SECOND = 2.5e9
"""Feature values that come out of compressed shards."""
TENSORFLOW_SECONDS, TENSORFLOW_BYTES = 4.5, 600 * 2**20
NUMPY_BYTES = 70 * 2**20


@dataclass(frozen=True)
class Estimate:
    """What a fit would cost."""

    seconds: float
    num_bytes: int

    def __str__(self) -> str:
        """For people."""
        return f"{format_seconds(self.seconds)} and {format_bytes(self.num_bytes)}"


@dataclass(frozen=True)
class Sizes:
    """What the cost of a fit depends on."""

    num_train: int
    """Pictures."""
    num_rows: int
    """With all views that are trained on."""
    num_validation: int
    num_inputs: int
    units: int
    batch_size: int
    epochs: int
    rank: int


def measure_sizes(problem: Problem) -> Sizes:
    """Takes the sizes out of a problem."""
    split, config = problem.split, problem.config
    num_inputs = int(np.prod(problem.store.feature_shape))
    rows = problem.list_training_rows()
    num_contents = len({(row.content_hash, row.view) for row in rows})
    return Sizes(
        len(split.train),
        len(rows),
        len(split.validation),
        num_inputs,
        config.units,
        config.batch_size,
        config.epochs,
        choose_rank(config.rank, num_contents, num_inputs),
    )


def estimate_full(sizes: Sizes, free_memory: int) -> Estimate:
    """Estimates Keras `fit` on all inputs."""
    features = (sizes.num_rows + sizes.num_validation) * sizes.num_inputs
    fits = features * FEATURE_DTYPE.itemsize <= free_memory / 2
    reading = features * (1 if fits else sizes.epochs) / ROWS_DECODED_PER_SECOND
    seconds = TENSORFLOW_SECONDS + reading + _estimate_epochs(sizes, sizes.num_train, sizes.num_inputs)
    held = features * FEATURE_DTYPE.itemsize if fits else 4 * BLOCK_BYTES
    # Kernel, gradient, the optimizer's slot, and the copy of the kept epoch.
    return Estimate(seconds, TENSORFLOW_BYTES + held + 4 * 4 * sizes.num_inputs * sizes.units)


def estimate_reduced(sizes: Sizes) -> Estimate:
    """Estimates reducing the features, none of them kept yet, and fitting on what is left."""
    num_train, num_inputs = sizes.num_rows, sizes.num_inputs
    num_rows = num_train + sizes.num_validation
    if num_train <= MAX_EXACT_ROWS:
        passes, width = 1, num_train
        flops = num_inputs * num_train**2 + 10 * num_train**3
        working = 3 * 8 * num_train**2 + min(HELD_BYTES, num_train * num_inputs * FEATURE_DTYPE.itemsize)
    else:
        passes, width = 2, sizes.rank + OVERSAMPLING
        flops = 6 * num_inputs * num_train * width
        working = 3 * 4 * num_inputs * width + 4 * num_train * width
    flops += 2 * num_inputs * num_rows * sizes.rank
    reading = passes * num_rows * num_inputs / ROWS_DECODED_PER_SECOND
    seconds = 0.5 + reading + flops / FLOPS_PER_SECOND + _estimate_epochs(sizes, num_train, sizes.rank)
    directions, factors = 4 * num_inputs * sizes.rank, 2 * 4 * num_rows * sizes.rank
    return Estimate(seconds, NUMPY_BYTES + 2 * BLOCK_BYTES + working + directions + factors)


def choose_solver(sizes: Sizes, free_memory: int) -> tuple[SolverName, str]:
    """Chooses the faster solver among those that fit in memory; pure.

    Args:
        sizes: of the problem.
        free_memory: bytes that may be taken.

    Returns:
        The solver, and why, in words.
    """
    full, reduced = estimate_full(sizes, free_memory), estimate_reduced(sizes)
    costs = f"about {reduced} reduced, {full} full"
    if reduced.num_bytes > free_memory >= full.num_bytes:
        return SolverName.FULL, f"{costs}; {format_bytes(free_memory)} are free"
    if full.seconds < reduced.seconds and full.num_bytes <= free_memory:
        return SolverName.FULL, costs
    return SolverName.REDUCED, costs


def _estimate_epochs(sizes: Sizes, num_train: int, num_inputs: int) -> float:
    weights = num_inputs * sizes.units
    num_steps = -(-num_train // sizes.batch_size)
    step = 6 * sizes.batch_size * weights / FLOPS_PER_SECOND + 32 * weights / BYTES_PER_SECOND
    evaluation = 2 * sizes.num_validation * weights / FLOPS_PER_SECOND
    return sizes.epochs * (num_steps * step + evaluation)
