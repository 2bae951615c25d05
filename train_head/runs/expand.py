"""The head of a run on all inputs, whichever solver fitted it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from base.errors import HeadstartError
from base.terminal import Console
from features.schema import FeatureKey
from features.split import sort_examples
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.reduction.cache import Directions, Factors, get
from train_head.reduction.matrix import FeatureMatrix, open_workers
from train_head.reduction.record import Expansion, make_expansion
from train_head.runs.record import REDUCTION_FILE
from train_head.solvers.head import HeadWeights
from train_head.solvers.network import compute_outputs

if TYPE_CHECKING:
    from train_head.runs.read import Run

TOLERANCE = 1e-3
"""Largest difference of logits between the head that was fitted and the one on all inputs."""


def expand_head(run: Run, store: FeatureStore, validation: Sequence[Example], console: Console) -> HeadWeights:
    """Return a run's head on all inputs, from the store that it was fitted on, or a packed copy.

    Training rows are found by content hash and view; the logits of the run's validation examples are compared.

    Raises:
        HeadstartError: a training feature is no longer stored, or the expanded head has other logits.
    """
    head = run.read_head()
    if not run.record.reduction:
        return head
    is_old = REDUCTION_FILE not in run.record.files and not (run.folder / REDUCTION_FILE).exists()
    expansion = _find_old_expansion(run, store, head, console) if is_old else run.read_expansion()
    expanded = replace(head, hidden_kernel=expansion.expand_kernel(store, head.hidden_kernel))
    expected = run.read_validation_logits()
    rows = _sort_as_old(run, validation) if is_old else sort_examples(validation)
    found = compute_store_logits(expanded, store, rows)
    if found.shape != expected.shape:
        raise _disagree(run, f"{expected.shape} logits instead of {found.shape}")
    difference = float(np.abs(found - expected).max())
    num_inputs = len(expanded.hidden_kernel)
    console.debug(f"{run.folder}: expanded to {num_inputs:,} inputs; logits differ by {difference:.2g}")
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max()) / 100):
        raise _disagree(run, f"a difference of {difference:.2g}")
    return expanded


def compute_store_logits(head: HeadWeights, store: FeatureStore, examples: Sequence[Example]) -> Array:
    """Compute the logits of a head on all inputs for stored features."""
    with open_workers() as workers:
        hidden = FeatureMatrix(store, examples, workers).multiply(head.hidden_kernel)
        return compute_outputs(head, hidden)


def _find_old_expansion(run: Run, store: FeatureStore, head: HeadWeights, console: Console) -> Expansion:
    """Find what expands the kernel of a version-1 run: the factors in derived/ that it was fitted on."""
    folder, key = store.derived_folder, run.record.reduction
    factors, basis = get(folder, key, Factors, console), get(folder, key, Directions, console)
    hashes = {bytes.fromhex(example.content_hash) for example in run.read_examples() if example.split == "train"}
    keys = [FeatureKey(content_hash, view) for content_hash in sorted(hashes) for view in range(run.num_views)]
    rows = [row for row in store.find_examples(keys) if row is not None]
    if basis and basis.directions.shape[1] == len(head.hidden_kernel):
        return make_expansion(store, rows, None, basis.directions)
    if factors and factors.train.shape == (len(rows), len(head.hidden_kernel)):
        return make_expansion(store, rows, factors.compute_coefficients(head.hidden_kernel), None)
    raise HeadstartError(
        run.folder,
        f"the factors that this older run was fitted on, in {folder}",
        "none of them" if factors is None else "those of other rows",
        "Train again, which takes seconds; newer runs keep what they need themselves",
    )


def _sort_as_old(run: Run, validation: Sequence[Example]) -> list[Example]:
    """Sort as an older run did, by its store's layout: its predictions are in that order."""
    place_of = {prediction.path: place for place, prediction in enumerate(run.read_predictions())}
    return sorted(validation, key=lambda example: place_of.get(example.path, len(place_of)))


def _disagree(run: Run, got: str) -> HeadstartError:
    expected = f"a head on all inputs whose logits agree within {TOLERANCE:g} with those of the fitted one"
    advice = "Train it again with --overwrite (OVERWRITE=1), which takes seconds, then export"
    return HeadstartError(run.folder, expected, got, advice)
