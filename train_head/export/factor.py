"""Factor the head of the reduced solver: two smaller kernels instead of one, with the same outputs."""

from __future__ import annotations

import math

import numpy as np

from base.errors import UsageError
from base.terminal import format_bytes
from train_head.data.batches import Array
from train_head.runs.read import Run
from train_head.solvers.head import FactoredWeights, HeadWeights


def read_reduced_kernel(run: Run) -> Array:
    """Return the kernel A (r, units) on the reduced inputs of a run.

    Raises:
        UsageError: the head has no such kernel, or would not become smaller.
    """
    option, advice = "--factored", "Leave the option out"
    head = run.read_head()
    if not run.record.reduction or head.hidden_kernel is None:
        expected, got = "a run of the solver reduced with a hidden layer", f"one of the solver {run.record.solver}"
        if head.hidden_kernel is None:
            got += " without a hidden layer"
        raise UsageError(option, expected, got, advice)
    rank, num_units = head.hidden_kernel.shape
    num_inputs = math.prod(run.record.feature_shape)
    sizes = num_inputs * num_units * 4, rank * (num_inputs + num_units) * 4
    if sizes[1] >= sizes[0]:
        got = f"{format_bytes(sizes[0])} in one kernel and {format_bytes(sizes[1])} in two, of rank {rank:,}"
        raise UsageError(option, "a head that becomes smaller", got, f"{advice}, or train with a smaller --rank")
    return head.hidden_kernel


def factor_head(head: HeadWeights, reduced: Array) -> FactoredWeights:
    """Split the hidden kernel W = V A of an expanded head into (W Q) and Qᵀ.

    The columns of Q are an orthonormal basis of the rows of A. The rows of W lie in their span, so that W Q Qᵀ = W.

    Args:
        head: the head on all inputs.
        reduced: A (r, units).
    """
    basis = np.linalg.qr(reduced.T.astype(np.float64))[0].astype(np.float32)
    kernel = head.input_kernel @ basis
    return FactoredWeights(
        np.ascontiguousarray(basis.T), head.hidden_bias, head.output_kernel, head.output_bias, factor=kernel
    )
