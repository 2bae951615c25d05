"""Expansion of a run's head from reduced inputs to the full feature space (all inputs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from base.errors import HeadstartError
from base.terminal import Console
from features.schema import FeatureKey
from features.store import Example, FeatureStore
from features.validation_split import sort_examples
from train_head.data.batches import Array
from train_head.reduction.cache import Directions, Factors, get
from train_head.reduction.matrix import FeatureMatrix, open_workers
from train_head.reduction.record import Expansion, make_expansion
from train_head.runs.record import REDUCTION_FILE
from train_head.solvers.head import HeadWeights
from train_head.solvers.network import compute_outputs

if TYPE_CHECKING:
    from train_head.runs.read import Run

TOLERANCE = 0.02
"""Largest allowed difference between the logits of the fitted and the expanded head; relative for logits above 100.

It changes a probability by at most 0.005, a quarter of what rounding of stored features may change. Rounding gives at
most 0.0001 with photographs, but 0.01 with features that differ little from picture to picture.
"""


def expand_head(run: Run, store: FeatureStore, validation: Sequence[Example], console: Console) -> HeadWeights:
    """Return a run's head on all inputs.

    The training rows are found by content hash and view. The logits of the expanded head are compared with the logits
    that the run recorded.

    Args:
        run: the run; a head that the full solver fitted is returned unchanged.
        store: the store that the run was fitted on, or a packed copy of it.
        validation: the run's validation examples, in any order.
        console: receives debug messages.

    Raises:
        HeadstartError: a training feature is missing, or the logits differ.
    """
    head = run.read_head()
    if not run.record.reduction:
        return head
    # A version-1 run has no file for the expansion, not even after it was rewritten as version 2.
    has_expansion = REDUCTION_FILE in run.record.files or (run.folder / REDUCTION_FILE).exists()
    expansion = run.read_expansion() if has_expansion else _load_cached_expansion(run, store, head, console)
    expanded = head.with_input_kernel(expansion.expand_kernel(store, head.input_kernel))
    expected = run.read_validation_logits()
    rows = sort_examples(validation) if has_expansion else _sort_as_predicted(run, validation)
    found = compute_store_logits(expanded, store, rows)
    if found.shape != expected.shape:
        raise _make_mismatch_error(run, f"logits of shape {found.shape}, not {expected.shape}")
    difference = float(np.abs(found - expected).max())
    num_inputs = len(expanded.input_kernel)
    console.debug(f"{run.folder}: expanded to {num_inputs:,} inputs; logits differ by {difference:.2g}")
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max()) / 100):
        raise _make_mismatch_error(run, f"a difference of {difference:.2g}")
    return expanded


def compute_store_logits(head: HeadWeights, store: FeatureStore, examples: Sequence[Example]) -> Array:
    """Compute the logits, (examples, outputs), of a head on all inputs for stored features."""
    with open_workers() as workers:
        hidden = FeatureMatrix(store, examples, workers).multiply(head.input_kernel)
        return compute_outputs(head, hidden)


def _load_cached_expansion(run: Run, store: FeatureStore, head: HeadWeights, console: Console) -> Expansion:
    """Load the expansion of a version-1 run from the factors that the store's derived/ folder caches."""
    folder, key = store.derived_folder, run.record.reduction
    factors, basis = get(folder, key, Factors, console), get(folder, key, Directions, console)
    hashes = {bytes.fromhex(example.content_hash) for example in run.read_examples() if example.split == "train"}
    keys = [FeatureKey(content_hash, view) for content_hash in sorted(hashes) for view in range(run.num_views)]
    rows = store.find_stored(keys)
    if basis and basis.directions.shape[1] == len(head.input_kernel):
        return make_expansion(store, rows, None, basis.directions)
    if factors and factors.train.shape == (len(rows), len(head.input_kernel)):
        return make_expansion(store, rows, factors.compute_coefficients(head.input_kernel), None)
    raise HeadstartError(
        run.folder,
        f"the cached factors of this version-1 run in {folder}",
        "no factors" if factors is None else "the factors of other rows",
        "Train again; a newer run stores its own factors",
    )


def _sort_as_predicted(run: Run, validation: Sequence[Example]) -> list[Example]:
    """Sort examples in the order of the run's predictions, in which version 1 also stored the logits."""
    rank_of = {prediction.path: rank for rank, prediction in enumerate(run.read_predictions())}
    return sorted(validation, key=lambda example: rank_of.get(example.path, len(rank_of)))


def _make_mismatch_error(run: Run, got: str) -> HeadstartError:
    expected = f"an expanded head whose logits are within {TOLERANCE:g} of the fitted head's"
    advice = "Train the run again with `overwrite`; if the error remains, with a smaller `rank` or the solver full"
    return HeadstartError(run.folder, expected, got, advice)
