"""Leads the head of a run back to the features' own inputs, whichever solver fitted it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from features.console import Console
from features.errors import HeadstartError
from features.store import Example, FeatureStore
from train_head.head import Array, HeadWeights
from train_head.reduction.reduce import Sides, lift_kernel
from train_head.reduction.rows import FeatureRows
from train_head.run import Run
from train_head.solvers.network import compute_outputs
from train_head.split import Split, list_rows

TOLERANCE = 1e-3
"""Of logits, between the head that was fitted and the one that is led back."""


def lift_head(run: Run, store: FeatureStore, split: Split, console: Console) -> HeadWeights:
    """Returns a run's head on all inputs.

    Args:
        run: the run.
        store: the store that it was fitted on.
        split: its examples in that store.
        console: where progress goes.

    Raises:
        HeadstartError: the head that is led back does not say of the validation features what the fitted one said.
    """
    head = run.read_head()
    if not run.record.reduction:
        return head
    sides = Sides(list_rows(store, split.train, run.num_views), split.validation)
    kernel = lift_kernel(store, sides, run.record.rank, head.hidden_kernel, console)
    lifted = replace(head, hidden_kernel=kernel)
    expected = run.read_validation_logits()
    found = compute_store_logits(lifted, store, split.validation)
    if found.shape != expected.shape:
        raise _disagree(run, f"{expected.shape} logits instead of {found.shape}")
    difference = float(np.abs(found - expected).max())
    console.detail(f"{run.folder}: led back to {len(lifted.hidden_kernel):,} inputs; logits differ by {difference:.2g}")
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max()) / 100):
        raise _disagree(run, f"a difference of {difference:.2g}")
    return lifted


def compute_store_logits(head: HeadWeights, store: FeatureStore, examples: Sequence[Example]) -> Array:
    """Computes what a head on all inputs says of features, straight from the store."""
    rows = FeatureRows(store, examples)
    hidden = rows.multiply(head.hidden_kernel)
    return compute_outputs(head, hidden)


def _disagree(run: Run, got: str) -> HeadstartError:
    return HeadstartError(
        run.folder,
        f"a head on all inputs whose logits agree within {TOLERANCE:g} with those of the fitted one",
        got,
        "Train it again with --overwrite (OVERWRITE=1), which takes seconds, then export",
    )
