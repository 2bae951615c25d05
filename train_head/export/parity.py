"""Compare an exported model with its parts, and with the stored features, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.store import FeatureStore
from train_head.data.batches import Array
from train_head.evaluation.metrics import predict_classes
from train_head.export.model import ExportedModel
from train_head.export.pictures import LoadedPictures
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
class Difference:
    """A picture and the difference of its probabilities."""

    image: str
    difference: float


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
    """Pictures that were passed over: they cannot be read any more, or have changed."""
    worst: tuple[Difference, ...] = ()
    """Pictures with the largest differences, of the kind that is not allowed; else from the stored features."""

    @property
    def ok(self) -> bool:
        """Whether the model may appear. NaN is never ok."""
        return (
            self.max_difference <= TOLERANCE
            and self.max_stored_difference <= self.stored_difference_allowed
            and self.num_flipped <= self.num_flips_allowed
        )


@dataclass(frozen=True)
class Parts:
    """Backbone and head, apart."""

    prepare: Callable[[Any], Any]
    """Pixels, resized or not, to what the backbone sees."""
    run_backbone: Callable[[Any], Array]
    run_head: Callable[[Array], Array]
    run_stored: Callable[[Array], Array]
    """From stored features to the head's outputs."""


def check_parity(
    exported: ExportedModel, parts: Parts, store: FeatureStore, pictures: LoadedPictures, advance: Callable[[int], None]
) -> Parity:
    """Compare an exported model with its parts.

    Args:
        exported: the model, reloaded from disk.
        parts: backbone and head as training knew them.
        store: where the stored features are.
        pictures: what to compare on.
        advance: called with the number of pictures after each batch.
    """
    wholes, aparts, storeds = [], [], []
    checked = pictures.examples
    for rows, resized in pictures.read_batches():
        whole = np.stack(list(exported.predict(resized, len(rows))))
        for row in pictures.raw.keys() & set(rows):
            whole[row - rows.start] = next(exported.predict([pictures.raw[row]], 1))
        wholes.append(whole)
        if rows.start < NUM_APART:
            aparts.append(parts.run_head(parts.run_backbone(np.stack([parts.prepare(pixels) for pixels in resized]))))
        storeds.append(parts.run_stored(store.read([checked[row] for row in rows]).astype(np.float32)))
        advance(len(rows))
    whole, apart, stored = (np.concatenate(found) for found in (wholes, aparts, storeds))
    differences = np.abs(whole[: len(apart)] - apart).max(axis=1)
    stored_differences = np.abs(whole - stored).max(axis=1)
    whole, stored = expand_probabilities(whole), expand_probabilities(stored)
    flips = find_flips(whole, stored)
    targets = np.array([exported.card.classes.index(example.label) for example in checked])
    is_close = bool((differences <= TOLERANCE).all())
    # Reversed, a sort puts NaN first.
    order = np.argsort(stored_differences + flips if is_close else differences)[::-1][:NUM_WORST]
    shown = stored_differences if is_close else differences
    precision = store.fingerprint.precision
    return Parity(
        num_pictures=len(checked),
        max_difference=float(differences.max()),
        max_stored_difference=float(stored_differences.max()),
        num_flipped=int(flips.sum()),
        num_flips_allowed=math.ceil(FLIPPED_SHARE.get(precision, 0.0) * len(checked)),
        accuracy=float(np.mean(predict_classes(whole) == targets)),
        stored_accuracy=float(np.mean(predict_classes(stored) == targets)),
        stored_difference_allowed=STORED_TOLERANCE.get(precision, STORED_TOLERANCE["float32"]),
        num_gone=len(pictures.gone),
        worst=tuple(Difference(checked[row].path, float(shown[row])) for row in order),
    )


def find_flips(whole: Array, stored: Array) -> NDArray[np.bool_]:
    """Find pictures whose class differs although the stored features' probabilities are not near a tie.

    Args:
        whole: (n, classes) of the exported model.
        stored: (n, classes) of the head on stored features.

    Returns:
        (n,) bool.
    """
    top = np.sort(stored, axis=1)
    clear = (top[:, -1] - top[:, -2]) / 2 > NEAR_THRESHOLD
    return np.asarray(clear & (predict_classes(whole) != predict_classes(stored)))
