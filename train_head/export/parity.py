"""Compare an exported model with its parts, and with the stored features, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.terminal import Console
from extract.pixels import FACTOR, OFFSET
from features.store import FeatureStore
from train_head.data.batches import Array
from train_head.evaluation.metrics import predict_classes
from train_head.export.pictures import Pictures
from train_head.export.rebuild import Rebuilt
from train_head.solvers.head import expand_probabilities

NUM_WORST = 3
NUM_APART = 64
"""Pictures on which backbone and head are run apart as well: other weights or another graph would show on a few."""
TOLERANCE = 1e-5
"""Of probabilities, between the exported model and backbone-then-head, both float32."""
STORED_TOLERANCE = {"float32": 0.02, "bfloat16": 0.5}
"""Of probabilities, between the exported model and the head on features of that precision.

Measured with seven heads on 400 photographs: up to 0.001 and 0.21. The largest difference of logits was 0.00006 and
0.016 of the largest logit, with each head, so that only logits above 1,400 and 120 bring a sound model to these bounds.
"""
NEAR_THRESHOLD = 1e-3
"""A picture whose probability is this near to a tie may change its label by the features' rounding."""
FLIPPED_SHARE = {"float32": 0.0, "bfloat16": 0.05}
"""How many pictures may have another label than the head gave them on features of that precision."""


@dataclass(frozen=True)
class Parity:
    """Differences between an exported model and its parts, over validation pictures."""

    num_pictures: int
    max_difference: float
    """Of probabilities, from backbone-then-head on the same pixels, over the first pictures."""
    max_stored_difference: float
    """Of probabilities, from the head on the stored (float16) features."""
    num_flipped: int
    """Pictures not near the threshold whose label differs from the head's on stored features."""
    num_flips_allowed: int
    """Zero for features that were made in float32, as the exported model makes them."""
    accuracy: float
    """Share of the pictures that the exported model classifies correctly."""
    stored_accuracy: float
    """The same for the head on the stored features."""
    stored_difference_allowed: float
    num_gone: int = 0
    """Pictures that were skipped: they cannot be read any more, or have changed."""
    worst: tuple[dict[str, Any], ...] = ()
    """`image` and `difference` of the pictures with the largest ones, of the kind that is not allowed."""

    @property
    def ok(self) -> bool:
        """Whether the model may appear. NaN is never ok."""
        return (
            self.max_difference <= TOLERANCE
            and self.max_stored_difference <= self.stored_difference_allowed
            and self.num_flipped <= self.num_flips_allowed
        )


def check_parity(
    run_model: Callable[[Any], Array],
    rebuilt: Rebuilt,
    store: FeatureStore,
    classes: Sequence[str],
    pictures: Pictures,
    console: Console,
) -> Parity:
    """Compare an exported model, as `compile_model` returns it, with the backbone and head that it was made of."""
    outputs: list[Array] = []
    outputs_apart: list[Array] = []
    outputs_stored: list[Array] = []
    examples = pictures.loaded
    with console.progress("check", len(examples), "pictures") as progress:
        for places, resized in pictures.read_batches():
            outputs.append(run_model(resized))
            for place in pictures.raw.keys() & set(places):
                outputs[-1][place - places.start] = run_model(pictures.raw[place][None])[0]
            if places.start < NUM_APART:
                scaled = resized * np.float32(FACTOR) + np.float32(OFFSET)
                outputs_apart.append(rebuilt.head.predict_on_batch(rebuilt.backbone.predict_on_batch(scaled)))
            features = store.read([examples[place] for place in places])
            outputs_stored.append(rebuilt.run_stored(features.astype(np.float32)))
            progress.advance(len(places))
    whole, apart, stored = map(np.concatenate, (outputs, outputs_apart, outputs_stored))
    differences = np.abs(whole[: len(apart)] - apart).max(axis=1)
    stored_differences = np.abs(whole - stored).max(axis=1)
    whole, stored = expand_probabilities(whole), expand_probabilities(stored)
    flips = find_flips(whole, stored)
    targets = np.array([classes.index(example.label) for example in examples])
    is_close = bool((differences <= TOLERANCE).all())
    # Reversed, a sort puts NaN first.
    order = np.argsort(stored_differences + flips if is_close else differences)[::-1][:NUM_WORST]
    shown = stored_differences if is_close else differences
    precision = store.fingerprint.precision
    return Parity(
        num_pictures=len(examples),
        max_difference=float(differences.max()),
        max_stored_difference=float(stored_differences.max()),
        num_flipped=int(flips.sum()),
        num_flips_allowed=math.ceil(FLIPPED_SHARE.get(precision, 0.0) * len(examples)),
        accuracy=float(np.mean(predict_classes(whole) == targets)),
        stored_accuracy=float(np.mean(predict_classes(stored) == targets)),
        stored_difference_allowed=STORED_TOLERANCE.get(precision, STORED_TOLERANCE["float32"]),
        num_gone=len(pictures.gone),
        worst=tuple({"image": examples[row].path, "difference": float(shown[row])} for row in order),
    )


def find_flips(whole: Array, stored: Array) -> NDArray[np.bool_]:
    """Find pictures, (n,), whose most probable class differs although the stored one's, (n, classes), is not a tie."""
    top = np.sort(stored, axis=1)
    clear = (top[:, -1] - top[:, -2]) / 2 > NEAR_THRESHOLD
    return np.asarray(clear & (predict_classes(whole) != predict_classes(stored)))
