"""Outputs of an exported model, whatever its format."""

from __future__ import annotations

from typing import NamedTuple

from train_head.data.batches import Array

PROBABILITY, DISTANCE, FEATURES = "probability", "distance", "features"
"""Names of the outputs of a model with several outputs."""


class Outputs(NamedTuple):
    """Outputs of an exported model."""

    probabilities: Array
    """(n, outputs)."""
    distances: Array | None
    """(n,) squared distances to the nearest class; None for a model without them."""
    features: Array | None = None
    """(n, channels) features, averaged over height and width; None for a model without this output."""
